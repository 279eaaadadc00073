"""Scores of every system on every test row: the numbers that everything else in the report is computed from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.statistics import Bounds, gain_bounds, mean_bounds
from fine_tune_pipeline.guide.objective.metrics import Metric, allowed_metrics, metric_named, score_one
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.objective import ObjectiveSpec

CLUSTER = "cluster"
"""Metadata that names rows which share their fate, such as near duplicates."""

SLOW_METRICS = frozenset({"edit_rate"})
"""Computed only when a criterion asks for them."""

TOLERANCE = 1e-9


class ScoreMismatch(Exception):
    """`evaluate` and our own mean differ, so one of them did not see the rows that it should have."""


@dataclass(frozen=True)
class Scores:
    """`by_system[system][metric]` has one number per row of `rows`, in their order."""

    rows: Sequence[Example]
    metrics: Mapping[str, Metric]
    by_system: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def clusters(self) -> list[str]:
        """What each row shares its fate with; a row that says nothing stands alone."""
        return [row.metadata.get(CLUSTER) or f"row {row.id}" for row in self.rows]

    def of(self, system: str, metric: str) -> Sequence[float]:
        return self.by_system[system][metric]

    def mean(self, system: str, metric: str) -> float:
        scores = self.of(system, metric)
        return sum(scores) / len(scores)

    def bounds(self, system: str, metric: str, *, level: float) -> Bounds:
        """Bounds of the system's mean, each one-sided at `level`."""
        kind = self.metrics[metric]
        return mean_bounds(self.of(system, metric), level=level, clusters=self.clusters, low=kind.low, high=kind.high, binary=kind.binary)

    def gain(self, system: str, metric: str, *, over: str, level: float) -> Bounds:
        """Bounds of the mean paired gain; positive is better, also where less is better."""
        kind = self.metrics[metric]
        gains = self.gains(system, metric, over=over)
        return gain_bounds(gains, level=level, clusters=self.clusters, span=kind.high - kind.low, binary=kind.binary)

    def gains(self, system: str, metric: str, *, over: str) -> list[float]:
        """One paired gain per row."""
        sign = -1.0 if self.metrics[metric].better == "lower" else 1.0
        return [sign * (mine - other) for mine, other in zip(self.of(system, metric), self.of(over, metric), strict=True)]

    def part(self, places: Sequence[int]) -> "Scores":
        """The same systems and metrics on some of the rows."""
        chosen = {
            system: {name: [scores[place] for place in places] for name, scores in by_metric.items()}
            for system, by_metric in self.by_system.items()
        }
        return Scores(rows=[self.rows[place] for place in places], metrics=self.metrics, by_system=chosen)


def reported_metrics(task: Task, objective: ObjectiveSpec) -> list[str]:
    """Metrics of the report: all that the task allows, save the slow ones, and whatever a criterion asks for."""
    asked = [criterion.metric for criterion in (*objective.success, *objective.guards)]
    usual = [name for name in allowed_metrics(task) if name not in SLOW_METRICS]
    return list(dict.fromkeys([*usual, *asked]))


def headline_metric(task: Task) -> str:
    """The metric in the first line: the whole answer is right, or the most telling one of a task where that means nothing."""
    allowed = allowed_metrics(task)
    return "exact_match" if "exact_match" in allowed else allowed[0]


def scored(rows: Sequence[Example], answers: Mapping[str, Sequence[str]], *, task: Task, metrics: Sequence[str]) -> Scores:
    """Score every answer against the row's completion.

    Args:
        rows: the test set, at least one row.
        answers: system -> one answer per row, in the order of `rows`.
    """
    by_system = {}
    for system, texts in answers.items():
        one_by_one = [score_one(text, row.completion, task=task, metrics=metrics) for text, row in zip(texts, rows, strict=True)]
        by_system[system] = {name: [scores[name] for scores in one_by_one] for name in metrics}
    return Scores(rows=rows, metrics={name: metric_named(name, task) for name in metrics}, by_system=by_system)


def score_rows(scores: Scores) -> Iterator[dict[str, Any]]:
    """The scores as rows of system, id and one number per metric."""
    for system, by_metric in scores.by_system.items():
        for place, row in enumerate(scores.rows):
            yield {"system": system, "id": row.id, **{name: numbers[place] for name, numbers in by_metric.items()}}


def check_means(scores: Scores, means: Mapping[str, Mapping[str, float]]) -> None:
    """Compare our means with those of `evaluate`.

    Raises:
        ScoreMismatch: names system, metric and both numbers.
    """
    for system, by_metric in scores.by_system.items():
        for metric in by_metric:
            ours, theirs = scores.mean(system, metric), means.get(system, {}).get(metric)
            if theirs is None or abs(ours - theirs) > TOLERANCE * max(1.0, abs(ours)):
                raise ScoreMismatch(
                    f"{metric} of {system}: our mean over {len(scores.rows)} rows is {ours!r}, `evaluate` says {theirs!r}; "
                    "one of the two did not read scores.jsonl as it was written"
                )
