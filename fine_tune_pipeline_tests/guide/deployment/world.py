"""A store with what the deployment room reads, made by hand: data, predictions, an adapter; and an encoder that needs no weights."""

import json
import random
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fine_tune_pipeline.artifacts.examples import Example, write_examples, write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.guide.deployment.monitoring.reference import Embedded
from fine_tune_pipeline.spec.use_case import UseCaseSpec

USE_CASE = "bank"
WIDTH = 256

SUBJECTS = ("my card", "the transfer", "a payment", "my account", "the fee", "my pin", "a refund", "the loan")
WISHES = ("is missing", "was charged twice", "has not arrived", "must be changed", "is too high", "was stolen", "is wrong", "does not work")
FOREIGN = ("recipe for pancakes with maple syrup", "weather in Lisbon tomorrow", "who painted sunflowers", "longest river of Asia")


def use_case(**deployment: Any) -> UseCaseSpec:
    """A small use case: two labels, and monitoring that needs few requests."""
    return UseCaseSpec.model_validate(
        {
            "name": USE_CASE,
            "owners": ["team:bank"],
            "objective": {
                "goal": "Send each message to the right team",
                "task": {"type": "question_answering"},
                "success": [{"metric": "exact_match", "at_least": 0.5}],
                "limits": {"p95_latency_seconds": 30.0},
            },
            "dataset": {"sources": [{"type": "jsonl", "path": "messages.jsonl"}], "split": {"seed": 3}},
            "deployment": {
                "port": 0,
                "parity_prompts": 6,
                "monitoring": {"window": 60, "minimum_requests": 40},
                **deployment,
            },
        }
    )


def prompts(start: int, count: int) -> list[str]:
    """Messages of one kind, all different: subjects and wishes drawn alike for every `start`."""
    draw = random.Random(start)
    pieces = [[draw.choice(SUBJECTS), draw.choice(WISHES), "and", draw.choice(SUBJECTS), draw.choice(WISHES)] for _ in range(count)]
    return [f"{' '.join(words)} case {start + number}" for number, words in enumerate(pieces)]


def keep(
    store: Store, asset: str, *, mark: str, files: dict[str, Any], upstream: Mapping[str, Artifact] = MappingProxyType({})
) -> Artifact:
    """An artifact of this asset, made current. Lists are written as JSONL, dicts as JSON, folders and files are copied."""
    with store.draft(USE_CASE, content_of(asset=asset, version=1, what={"mark": mark}, upstream=upstream)) as draft:
        for name, content in files.items():
            _write(draft.folder / name, content)
        return draft.finish(Built())


def keep_dataset(store: Store, *, mark: str = "one") -> Artifact:
    """Training, validation and test rows of one kind of message."""
    rows = {"train": prompts(0, 120), "validation": prompts(200, 40), "test": prompts(300, 30)}
    files = {
        f"{name}.jsonl": [Example(id=f"{name}-{place}", prompt=text, completion="x" * 4) for place, text in enumerate(texts)]
        for name, texts in rows.items()
    }
    return keep(store, "dataset", mark=mark, files=files)


def keep_index(store: Store, folder: Path) -> Artifact:
    """The index in a folder as the artifact `retrieval_index`."""
    return keep(store, "retrieval_index", mark=folder.name, files={path.name: path for path in folder.iterdir()})


def keep_predictions(store: Store, answers: Sequence[tuple[str, float]], *, mark: str = "one") -> Artifact:
    """What the fine-tuned model answered on the test rows: text and mean log-probability."""
    rows = [
        {"id": f"test-{place}", "text": text, "tokens": 6, "logprob": logprob, "finished": True}
        for place, (text, logprob) in enumerate(answers)
    ]
    return keep(store, "predictions", mark=mark, files={"fine_tuned.jsonl": rows})


def words(texts: Sequence[str]) -> Embedded:
    """Embeddings as bags of hashed words: messages of one kind are near each other, foreign ones are far."""
    vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.casefold().split():
            vectors[row, zlib.crc32(word.encode("utf-8")) % WIDTH] += 1
    return Embedded(vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True), encoder_sha256="e" * 64)


def _write(path: Path, content: Any) -> None:
    if isinstance(content, Path):
        (shutil.copytree if content.is_dir() else shutil.copyfile)(content, path)
    elif isinstance(content, dict):
        path.write_text(json.dumps(content), encoding="utf-8")
    elif content and isinstance(content[0], Example):
        write_examples(path, content)
    else:
        write_rows(path, content)
