"""A small world for the evaluation: a store with the artifacts that stand before it, and a place where programs only pretend to run."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import dagster as dg
import numpy as np

from fine_tune_pipeline.artifacts.examples import Example, read_rows, write_examples, write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.guide.objective.metrics import corpus_value
from fine_tune_pipeline.guide.technique.index import Entry
from fine_tune_pipeline.programs.requests import (
    EmbedRequest,
    EmbedResult,
    PredictedJob,
    PredictRequest,
    PredictResult,
    Request,
    TrainResult,
)
from fine_tune_pipeline.programs.score_requests import ScoreRequest, ScoreResult
from fine_tune_pipeline.resources.compute.base import Compute
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec

INTENTS = ("card_lost", "refund", "login", "fees")
URGENCIES = ("low", "high")

SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": list(INTENTS)}, "urgency": {"enum": list(URGENCIES)}},
    "required": ["intent", "urgency"],
    "additionalProperties": False,
}

RIGHT = {"base_zero_shot": 0.0, "base_few_shot": 0.3, "base_retrieval": 0.35, "fine_tuned": 0.8}
"""Share of rows that each system of the pretended program answers rightly."""

LARGER = {"id": "qwen3-0.6b", "kind": "larger", "reason": "2.2 times the parameters", "candidate": False}
"""What step 2 ranks after its choice."""

BASE = {
    "id": "tiny",
    "context_tokens": 4096,
    "reason": "tiny is the first of 2 candidates that passes.",
    "compared_on": "1,000 rows of 256 tokens",
    "candidates": [
        {"candidate": "tiny", "parameters": 1000, "quality prior": None, "verdict": "passes"},
        {"candidate": "huge", "parameters": None, "quality prior": None, "verdict": "its licence is not accepted"},
    ],
    "try_next": [LARGER],
}


def answer(intent: str, urgency: str) -> str:
    return json.dumps({"intent": intent, "urgency": urgency})


def examples(count: int, *, start: int = 0) -> list[Example]:
    """Rows whose intent and urgency take turns; the prompt names both, so that everything can be learned."""
    rows = []
    for number in range(start, start + count):
        intent, urgency = INTENTS[number % 4], URGENCIES[number // 4 % 2]
        channel = "app" if number % 2 else "mail"
        rows.append(
            Example(f"r{number}", f"message {number} about {intent}, {urgency}", answer(intent, urgency), metadata={"channel": channel})
        )
    return rows


def use_case(folder: Path, *, objective: Mapping[str, Any] | None = None, **sections: Any) -> UseCaseSpec:
    """An extraction use case; `objective` replaces parts of the objective, keywords other sections."""
    (folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    whole = {
        "goal": "Turn a customer's message into intent and urgency",
        "task": {"type": "extraction", "schema": "schema.json"},
        "success": [{"metric": "exact_match", "at_least": 0.6}, {"metric": "exact_match", "beats": "base_few_shot", "by": 0.1}],
        "guards": [{"metric": "valid_json", "at_least": 0.8}],
        **(objective or {}),
    }
    dataset = {
        "sources": [{"type": "jsonl", "path": "rows.jsonl", "metadata": ["channel"]}],
        "review": {"policy": "auto_accept"},
        **sections.pop("dataset", {}),
    }
    return UseCaseSpec.model_validate({"name": "triage", "objective": whole, "dataset": dataset, **sections}).at(folder)


def train_result(**changes: Any) -> TrainResult:
    facts: dict[str, Any] = {
        "adapter": "adapter", "adapter_sha256": "0" * 64, "steps": 20, "rows": 160, "tokens": 9000, "labelled_tokens": 2000,
        "seconds": 60.0, "tokens_per_second": 150.0, "first_loss": 3.0, "final_loss": 0.3,
        "validation_losses": ((0, 3.1), (10, 0.6), (20, 0.4)),
        "peak_memory_bytes": 1 << 30, "trainable_parameters": 1000, "curve": "curve.jsonl",
    }  # fmt: skip
    return TrainResult(**{**facts, **changes})


def put(store: Store, asset: str, files: Mapping[str, Any], *, use_case: str = "triage", made: str = "by hand") -> Artifact:
    """An artifact with these files: examples or rows as JSONL, text as it is, other values as JSON; one for each `made`."""
    content = content_of(asset=asset, version=1, what={"made": made}, upstream={})
    with store.draft(use_case, content) as draft:
        for name, value in files.items():
            path = draft.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(value, str):
                path.write_text(value, encoding="utf-8")
            elif name.endswith(".jsonl") and value and isinstance(value[0], Example):
                write_examples(path, value)
            elif name.endswith(".jsonl"):
                write_rows(path, value)
            else:
                path.write_text(json.dumps(value), encoding="utf-8")
        return draft.finish(Built())


def put_index(store: Store, train: Sequence[Example], *, test: Sequence[Example] = ()) -> Artifact:
    """The artifact `retrieval_index` over training rows; with `test` rows as for a model that is trained with context."""
    what = {"rows": [row.id for row in train], "test": [row.id for row in test]}
    content = content_of(asset="retrieval_index", version=1, what=what, upstream={})
    with store.draft("triage", content) as draft:
        entries = [Entry(row.id, row.question, {"prompt": row.question, "completion": row.completion}) for row in train]
        write_rows(draft.folder / "chunks.jsonl", (vars(entry) for entry in entries))
        np.save(draft.folder / "vectors.npy", word_vectors([row.question for row in train]))
        (draft.folder / "index.json").write_text(json.dumps({"source": "training answers"}), encoding="utf-8")
        if test:
            write_examples(draft.folder / "test.jsonl", (replace(row, context=[entries[0].passage]) for row in test))
        return draft.finish(Built())


def word_vectors(texts: Sequence[str]) -> np.ndarray:
    """One dimension per word that names a class, so that a linear classifier is always right."""
    vectors = np.array([[1.0, *(float(word in text) for word in (*INTENTS, *URGENCIES))] for text in texts], dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def before_evaluation(
    store: Store, *, train: Sequence[Example], test: Sequence[Example], shots: Sequence[Mapping[str, str]] | None = None
) -> None:
    """The artifacts of the earlier rooms."""
    chosen = [{"prompt": train[0].prompt, "completion": train[0].completion}] if shots is None else shots
    put(store, "objective", {"objective.json": {}})
    put(store, "dataset", {"train.jsonl": list(train), "test.jsonl": list(test)})
    put(store, "base_model", {"model/config.json": {}, "base_model.json": BASE})
    put(store, "baselines", {"shots.json": chosen, "baselines.json": {"passages": 2}})
    put_index(store, train)
    curve = [{"step": step, "loss": 3.0 / step, "learning_rate": 1e-3} for step in range(1, 21)]
    put(store, "safety", safety_files())
    put(store, "adapter", {"adapter/adapter_config.json": {}, "train.json": train_result().model_dump(mode="json"), "curve.jsonl": curve})


def safety_files(*, worse: float = 0.01, **document: Any) -> dict[str, Any]:
    """What the asset `safety` leaves: 60 general texts on which the loss grew by about `worse`, and 40 outputs without anything in them."""
    losses = [
        {"metric": "general_loss", "id": f"t{number}", "base": 3.0, "fine_tuned": 3.0 + worse + (number % 7 - 3) / 1000}
        for number in range(60)
    ]
    outputs = [{"metric": name, "id": f"o{number}", "fine_tuned": 0.0} for name in ("verbatim", "personal_data") for number in range(40)]
    usual = {
        "searched": {"answers": 40, "continuations": 0, "training_rows": 160},
        "kinds": [{"kind": "news", "texts": 60, "base": 3.0, "fine_tuned": 3.0 + worse}],
        "canaries": [], "findings": [], "verbatim": [], "level": 0.95,
        "not_measured": {"leaked_canaries": "training.canaries plants no codes"},
    }  # fmt: skip
    return {"safety.json": {**usual, **document}, "scores.jsonl": [*losses, *outputs]}


def wrong(text: str, draw: random.Random) -> str:
    """A wrong answer: another intent, another urgency, or no JSON at all."""
    right = json.loads(text)
    kind = draw.randrange(3)
    if kind == 0:
        return answer(draw.choice([intent for intent in INTENTS if intent != right["intent"]]), right["urgency"])
    if kind == 1:
        return answer(right["intent"], "low" if right["urgency"] == "high" else "high")
    return "I do not know"


class PretendedCompute(Compute):
    """Answers like the programs, without a model: each system is right in a share of the rows, drawn by a seed.

    `answers` are the right ones by id; `mean_offset` makes the means wrong on purpose.
    """

    answers: dict[str, str] = {}
    right: dict[str, float] = RIGHT
    mean_offset: float = 0.0
    memory_gib: float = 1.0

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type) -> Any:
        if isinstance(request, PredictRequest):
            return self._predict(request)
        if isinstance(request, EmbedRequest):
            return self._embed(request)
        assert isinstance(request, ScoreRequest)
        return self._score(request)

    def inventory(self) -> Inventory:
        return Inventory(
            place="nowhere", devices=(Device(kind="cpu", name="CPU", memory_bytes=1, bfloat16=False),), cpu_cores=1, memory_bytes=1
        )

    def _predict(self, request: PredictRequest) -> PredictResult:
        done = []
        for job in request.jobs:
            draw = random.Random(job.name)
            rows = []
            for prompt in read_rows(Path(job.prompts)):
                assert set(prompt) <= {"id", "prompt", "context"}, "a prediction must not see the answer"
                truth = self.answers[prompt["id"]]
                text = truth if draw.random() < self.right[job.name] else wrong(truth, draw)
                rows.append({"id": prompt["id"], "text": text, "tokens": 9, "logprob": -0.1, "finished": True})
            write_rows(Path(job.output), rows)
            times = tuple(0.1 * (place + 1) for place in range(job.timed_rows))
            tokens = {"prompt_tokens": 100 * len(rows), "new_tokens": 9 * len(rows)}
            done.append(PredictedJob(name=job.name, rows=len(rows), seconds=2.0, latencies=times, **tokens))
        return PredictResult(jobs=tuple(done), load_seconds=1.0, peak_memory_bytes=int(self.memory_gib * 2**30))

    def _embed(self, request: EmbedRequest) -> EmbedResult:
        texts = [row["text"] for row in read_rows(Path(request.texts))]
        vectors = word_vectors(texts)
        path = Path(request.output) / "vectors.npy"
        np.save(path, vectors)
        return EmbedResult(vectors=str(path), rows=len(texts), width=vectors.shape[1], encoder="words", encoder_sha256="0", seconds=0.1)

    def _score(self, request: ScoreRequest) -> ScoreResult:
        by_system: dict[str, dict[str, list[float]]] = {}
        for row in read_rows(Path(request.scores)):
            for metric, number in row.items():
                if metric not in ("system", "id"):
                    by_system.setdefault(row["system"], {}).setdefault(metric, []).append(number)
        means = {
            system: {metric: fmean(numbers) + self.mean_offset for metric, numbers in found.items()} for system, found in by_system.items()
        }
        for system, metric, value in together(request):
            means[system][metric] = value + self.mean_offset
        return ScoreResult(means=means)


def together(request: ScoreRequest) -> Iterator[tuple[str, str, float]]:
    """System, metric and value of the metrics of all rows together."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for row in read_rows(Path(request.statistics)) if request.statistics else []:
        for metric in set(row) - {"system", "id"}:
            found.setdefault((row["system"], metric), []).append(row[metric])
    for (system, metric), numbers in found.items():
        yield system, metric, corpus_value({"metric": metric})(np.array(numbers))


def resources(folder: Path, compute: Compute) -> dict[str, Any]:
    return {
        "store": ArtifactStore(url=str(folder / "store"), reviews=str(folder / "reviews")),
        "compute": compute,
        "tracking": ExperimentTracking(uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "mlflow-artifacts")),
    }
