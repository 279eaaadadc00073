"""Slices of the test in which a finished evaluation found the fine-tuned model worse than on the whole.

Only means of slices are taken from the test, never its rows. Training more on what a test found hard still bends that test to one's will:
judge the model that follows on a fresh one as well.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fine_tune_pipeline.artifacts.examples import Example, read_examples, read_rows
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.objective.metrics import metric_named
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.more import HardSpec

FEWEST_ROWS = 5
"""Test rows below which a slice says nothing."""

CLASS = "class"
"""Stands for the column of slices by class."""

_NORMAL_95 = 1.645
"""Quantile of the normal distribution, one-sided."""

# Names of the evaluation room, which is above this one.
REPORT, SCORES, FINE_TUNED = "evaluation_report", "scores.jsonl", "fine_tuned"


class UnknownEvaluation(LookupError):
    """There is no evaluation of this fingerprint, or its test set is gone."""


@dataclass(frozen=True)
class Slice:
    """Test rows with one value of a column: how many, the mean of the metric, and that of all rows."""

    column: str
    value: str
    rows: int
    mean: float
    overall: float


def hard_slices(
    rows: Sequence[Example], scores: Mapping[str, float], *, task: Task, columns: Collection[str], better: str = "higher"
) -> list[Slice]:
    """Slices that are surely worse than the whole: the bound of the mean (one-sided, 95 %) lies on the wrong side. Worst first.

    Args:
        rows: of the test.
        scores: row id -> score of the fine-tuned model.
    """
    sign = 1.0 if better == "higher" else -1.0
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        for column, value in _places(row, task, columns):
            values[column, value].append(sign * scores[row.id])
    everything = [sign * scores[row.id] for row in rows]
    overall = sum(everything) / len(everything)
    found = [
        Slice(column, value, len(own), sign * sum(own) / len(own), sign * overall)
        for (column, value), own in values.items()
        if len(own) >= FEWEST_ROWS and _upper(own, everything) < overall
    ]
    return sorted(found, key=lambda one: (sign * one.mean, -one.rows, one.column, one.value))


def rows_in(slices: Sequence[Slice], rows: Sequence[Example], task: Task) -> set[str]:
    """Ids of the rows that lie in one of the slices."""
    wanted = {(one.column, one.value) for one in slices}
    columns = {one.column for one in slices}
    return {row.id for row in rows if wanted.intersection(_places(row, task, columns))}


def found_by(store: Store, use_case: str, spec: HardSpec, *, task: Task) -> list[Slice]:
    """The hard slices of the evaluation that the spec names.

    Raises:
        UnknownEvaluation: it is not in the store.
    """
    report = store.find(use_case, REPORT, spec.evaluation)
    if report is None:
        raise UnknownEvaluation(
            f"dataset.more.hard.evaluation: the store has no {REPORT} {spec.evaluation!r} of {use_case}; "
            "`fine-tune-pipeline hard` names the last one"
        )
    return slices_of(store, report, columns=spec.columns, task=task)


def slices_of(store: Store, report: Artifact, *, columns: Collection[str], task: Task) -> list[Slice]:
    """The hard slices of one evaluation, by the whole answer (exact_match) or else the first metric that it scored.

    Raises:
        UnknownEvaluation: the test set that it read is gone.
    """
    use_case, payload = report.manifest.use_case, report.manifest.payload
    dataset = store.find(use_case, "dataset", payload["upstream"]["dataset"])
    if dataset is None:
        raise UnknownEvaluation(
            f"{REPORT} {report.fingerprint}: the dataset {payload['upstream']['dataset']} that it read is no longer in the store"
        )
    rows = [row for row in read_rows(report.file(SCORES)) if row["system"] == FINE_TUNED]
    metrics = [name for name in rows[0] if name not in ("system", "id")]
    metric = "exact_match" if "exact_match" in metrics else metrics[0]
    scores = {row["id"]: float(row[metric]) for row in rows}
    return hard_slices(
        read_examples(dataset.file("test.jsonl")), scores, task=task, columns=columns, better=metric_named(metric, task).better
    )


def _places(row: Example, task: Task, columns: Collection[str]) -> list[tuple[str, str]]:
    name = task.class_of(row.completion)
    return [(CLASS, name)] * bool(name) + [(column, row.metadata[column]) for column in columns if column in row.metadata]


def _upper(scores: Sequence[float], everything: Sequence[float]) -> float:
    """Upper bound of a mean. One row of each extreme is added, so that a few like scores are not believed without a doubt."""
    padded = [*scores, min(everything), max(everything)]
    centre = sum(padded) / len(padded)
    variance = sum((score - centre) ** 2 for score in padded) / (len(padded) - 1)
    return sum(scores) / len(scores) + _NORMAL_95 * math.sqrt(variance / len(scores))
