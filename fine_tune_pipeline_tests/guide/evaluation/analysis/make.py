"""A finished evaluation in plain values."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.analysis.given import Given
from fine_tune_pipeline.guide.evaluation.scoring import scored
from fine_tune_pipeline.guide.evaluation.vectors import Vectors
from fine_tune_pipeline.guide.evaluation.verdicts import verdicts
from fine_tune_pipeline.guide.objective.task import Task, classification
from fine_tune_pipeline.spec.objective import ObjectiveSpec

LABELS = classification(["apple", "pear", "plum"])

WORDS = {
    "apple": "red crisp orchard cider core round shiny",
    "pear": "green soft bottle grainy conference long buttery",
    "plum": "purple stone jam damson tart slivovitz dried",
}


def fruit(count: int, *, start: int = 0) -> list[Example]:
    """Rows whose prompt says its label by three of seven words; three labels take turns."""
    found = []
    for number in range(start, start + count):
        label = ("apple", "pear", "plum")[number % 3]
        words = WORDS[label].split()
        said = " ".join(words[(number + shift) % 7] for shift in (0, 2, 3))
        found.append(Example(f"r{number}", f"{said} {number}", label, metadata={"channel": "app" if number % 2 else "mail"}))
    return found


def words_as_vectors(rows: Sequence[Example]) -> np.ndarray:
    """One dimension per known word, unit length."""
    known = " ".join(WORDS.values()).split()
    found = np.array([[1e-3, *(float(word in row.prompt.split()) for word in known)] for row in rows], dtype=np.float32).reshape(-1, 22)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def vectors(train: Sequence[Example], test: Sequence[Example]) -> Vectors:
    return Vectors(range(len(train)), words_as_vectors(train), words_as_vectors(test))


def objective(task: Task, *, metric: str = "accuracy", **more: Any) -> ObjectiveSpec:
    kind = {"type": task.type, "labels": task.labels} if task.labels else {"type": task.type}
    return ObjectiveSpec.model_validate({"goal": "g", "task": kind, "success": [{"metric": metric, "at_least": 0.6}], **more})


def given(
    test: Sequence[Example],
    own: Sequence[str],
    *,
    base: Sequence[str] | None = None,
    task: Task = LABELS,
    metric: str = "accuracy",
    train: Sequence[Example] = (),
    known: Vectors | None = None,
    sure: Sequence[float] | None = None,
    clusters: str | None = None,
    detectable_gain: float = 0.1,
    more: Mapping[str, Any] | None = None,
) -> Given:
    """The fine-tuned model beside the base without examples.

    Args:
        own: answers of the fine-tuned model; `base` those of the base, wrong everywhere by default.
        known: vectors of the rows.
        sure: probabilities of the fine-tuned answers.
        clusters: column of what rows share.
        more: parts of the objective.
    """
    asked = objective(task, metric=metric, **(more or {}))
    answers = {"base_zero_shot": list(base) if base is not None else ["?"] * len(test), "fine_tuned": list(own)}
    scores = scored(test, answers, task=task, metrics=[metric], cluster_by=clusters)
    measured: dict[str, list[dict[str, float]]] = {
        "base_zero_shot": [{}] * len(test),
        "fine_tuned": [{}] * len(test) if sure is None else [{"confidence": number} for number in sure],
    }
    return Given(
        objective=asked, task=task, train=train, test=test, answers=answers, scores=scores, measured=measured,
        verdicts=verdicts(scores, asked), metric=metric, base="base_zero_shot", columns=frozenset({"channel"}), vectors=known,
        detectable_gain=detectable_gain,
    )  # fmt: skip


def no_nan(found: Any) -> str:
    """The JSON of a report; it raises for what JSON has no word for."""
    return json.dumps(found, allow_nan=False)
