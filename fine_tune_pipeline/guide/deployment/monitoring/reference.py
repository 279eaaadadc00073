"""What the champion was made for: training texts, held-back ones, and its evaluated answers. Production is compared with these."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import read_examples, read_rows
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.deployment.live import Live
from fine_tune_pipeline.guide.deployment.monitoring.labels import same_answer
from fine_tune_pipeline.guide.deployment.monitoring.signals import Answers, Sample
from fine_tune_pipeline.guide.objective.measures.rules import refuses
from fine_tune_pipeline.guide.objective.task import OPEN, Task

if TYPE_CHECKING:
    import numpy as np

FILE = "reference.npz"

MOST_TEXTS = 2000
"""Of training texts and of held-back ones; more cost embedding time and change little (about 80 texts a second on a core)."""


class ReferenceGone(Exception):
    """The artifacts that the champion was made for are no longer in the store."""


@dataclass(frozen=True)
class Embedded:
    """Sentence embeddings, float32 [texts, width], unit length, and the hash of the encoder that made them."""

    vectors: "np.ndarray"
    encoder_sha256: str


Embed = Callable[[Sequence[str]], Embedded]


@dataclass(frozen=True)
class Texts:
    """Embeddings of training texts and of held-back ones, and how many characters the latter have."""

    train: "np.ndarray"
    held_back: "np.ndarray"
    lengths: "np.ndarray"

    def keep(self, folder: Path) -> None:
        """Write them beside the report."""
        import numpy as np

        np.savez(folder / FILE, train=self.train, held_back=self.held_back, lengths=self.lengths)


def kept_texts(artifact: Artifact) -> Texts:
    """Those that an earlier report holds."""
    import numpy as np

    with np.load(artifact.file(FILE), allow_pickle=False) as stored:
        return Texts(**{name: stored[name] for name in ("train", "held_back", "lengths")})


def embedded_texts(store: Store, use_case: str, live: Live, *, embed: Embed, seed: int) -> Texts:
    """Embed texts of the champion's dataset: some that it learned, and some of validation and test, which it did not.

    Raises:
        ReferenceGone: the dataset was deleted.
    """
    import numpy as np

    dataset = _found(store, use_case, "dataset", live.dataset)
    texts = {name: [row.prompt for row in read_examples(dataset.file(f"{name}.jsonl"))] for name in ("train", "validation", "test")}
    draw = random.Random(seed)
    train, held_back = _at_most(texts["train"], draw), _at_most([*texts["validation"], *texts["test"]], draw)
    vectors = embed([*train, *held_back]).vectors
    lengths = np.array([len(text) for text in held_back])
    return Texts(train=vectors[: len(train)], held_back=vectors[len(train) :], lengths=lengths)


def evaluated_answers(store: Store, use_case: str, live: Live, task: Task) -> Answers:
    """What the champion answered on the test set.

    Raises:
        ReferenceGone: the predictions were deleted.
    """
    rows = _evaluated(store, use_case, live)
    texts = [row["text"] for row in rows]
    return answers_of(
        task,
        texts,
        sure=[row["logprob"] for row in rows if row["logprob"] is not None],
        lengths=[len(text) for text in texts],
        invalid=[task.problem(text) is not None for text in texts],
    )


def production_answers(rows: Sequence[dict[str, Any]], task: Task) -> Answers:
    """What the champion answered in a window; texts that could not be kept count by their length alone."""
    return answers_of(
        task,
        [row["answer_scrubbed"] for row in rows if row["answer_scrubbed"] is not None],
        sure=[row["confidence"] for row in rows if row["confidence"] is not None],
        lengths=[row["answer_characters"] for row in rows],
        invalid=[not row["valid"] for row in rows if row["valid"] is not None],
    )


def answers_of(task: Task, texts: Sequence[str], *, sure: Sequence[float], lengths: Sequence[int], invalid: Sequence[bool]) -> Answers:
    """Answers as the tests take them; what says nothing of this task is left out: the length of a label, refusals where only JSON fits."""
    return Answers(
        sure=sure,
        classes=[task.class_of(text) for text in texts] if task.classes else (),
        lengths=() if task.type == "classification" else lengths,
        invalid=invalid,
        refused=[refuses(text) for text in texts] if task.type in OPEN else (),
    )


def share_right(store: Store, use_case: str, live: Live, task: Task) -> float | None:
    """The share of test rows that the champion answered right; None for a task where an answer may be right in many words.

    Raises:
        ReferenceGone: dataset or predictions were deleted.
    """
    if task.type in OPEN:
        return None
    wanted = {row.id: row.completion for row in read_examples(_found(store, use_case, "dataset", live.dataset).file("test.jsonl"))}
    right = [same_answer(task, row["text"], wanted[row["id"]]) for row in _evaluated(store, use_case, live) if row["id"] in wanted]
    return sum(right) / len(right) if right else None


def _evaluated(store: Store, use_case: str, live: Live) -> list[dict[str, Any]]:
    return read_rows(_found(store, use_case, "predictions", live.predictions).file("fine_tuned.jsonl"))


def _found(store: Store, use_case: str, asset: str, fingerprint: str) -> Artifact:
    found = store.find(use_case, asset, fingerprint)
    if found is None:
        raise ReferenceGone(f"{use_case}/{asset} {fingerprint}: the champion was made with it, but it is gone; deploy a version again")
    return found


def _at_most(texts: list[str], draw: random.Random) -> list[str]:
    return texts if len(texts) <= MOST_TEXTS else draw.sample(texts, MOST_TEXTS)


def sample(rows: Sequence[dict[str, Any]], vectors: "np.ndarray", task: Task) -> Sample:
    """A window as the tests take it."""
    return Sample(
        vectors=vectors,
        lengths=[len(row["prompt_scrubbed"]) for row in rows],
        answers=production_answers(rows, task),
    )
