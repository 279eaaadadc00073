"""Scores of every system on every test row: the numbers that everything else in the report is computed from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.corpus import corpus_bounds, drawn
from fine_tune_pipeline.guide.evaluation.measured import Measured
from fine_tune_pipeline.guide.evaluation.statistics import ShareBounds, exact, gain_bounds, mean_bounds
from fine_tune_pipeline.guide.objective.clusters import cluster_names
from fine_tune_pipeline.guide.objective.figures import corpus_figure
from fine_tune_pipeline.guide.objective.measures.item import Item
from fine_tune_pipeline.guide.objective.metrics import Metric, allowed_metrics, metric_named
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.objective import ObjectiveSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOLERANCE = 1e-9

T = TypeVar("T")


class ScoreMismatch(Exception):
    """`evaluate` and our own mean differ, so one of them did not see the rows that it should have."""


class NoRowCounts(Exception):
    """Not one of the rows counts for a metric, as for the recall of a label that no row has."""


@dataclass(frozen=True)
class Scores:
    """`by_system[system][metric]` has one number per row of `rows`, in their order.

    `statistics[system][metric]` has, for metrics of all rows together, the numbers of each row. `cluster_by` is a column of metadata whose
    values name what rows share, beside the marks of near duplicates.
    """

    rows: Sequence[Example]
    metrics: Mapping[str, Metric]
    by_system: Mapping[str, Mapping[str, Sequence[float]]]
    statistics: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] = field(default_factory=dict)
    cluster_by: str | None = None

    @cached_property
    def clusters(self) -> list[str]:
        """What each row shares its fate with; a row that says nothing stands alone."""
        return cluster_names(self.rows, cluster_by=self.cluster_by)

    def of(self, system: str, metric: str) -> Sequence[float]:
        return self.by_system[system][metric]

    def mean(self, system: str, metric: str) -> float:
        """The mean over the rows that count, or the one number of a metric of all rows together."""
        if self.metrics[metric].corpus is not None:
            return corpus_figure(self.metrics[metric], self.statistics[system][metric])
        scores = self.counted(metric).of(system, metric)
        return sum(scores) / len(scores)

    def bounds(self, system: str, metric: str, *, level: float, share: ShareBounds = exact) -> Bounds:
        """Bounds of the system's mean, each one-sided at `level`; `share` is how those of 0/1 scores are found."""
        kind = self.metrics[metric]
        if kind.corpus is not None:
            return self._of_all(self.mean(system, metric), self._draws(system, metric), level=level, low=kind.low, high=kind.high)
        part = self.counted(metric)
        return mean_bounds(
            part.of(system, metric), level=level, clusters=part.clusters, low=kind.low, high=kind.high, binary=kind.binary, share=share
        )

    def gain(self, system: str, metric: str, *, over: str, level: float) -> Bounds:
        """Bounds of the mean paired gain; positive is better, also where less is better."""
        kind, span = self.metrics[metric], self.metrics[metric].high - self.metrics[metric].low
        if kind.corpus is not None:
            gain = _sign(kind) * (self.mean(system, metric) - self.mean(over, metric))
            draws = _sign(kind) * (self._draws(system, metric) - self._draws(over, metric))
            return self._of_all(gain, draws, level=level, low=-span, high=span)
        part = self.counted(metric)
        return gain_bounds(part.gains(system, metric, over=over), level=level, clusters=part.clusters, span=span, binary=kind.binary)

    def _of_all(self, estimate: float, draws: "NDArray[np.float64]", *, level: float, low: float, high: float) -> Bounds:
        groups = len(set(self.clusters))
        return corpus_bounds(estimate, draws, level=level, rows=len(self.rows), clusters=groups, low=low, high=high)

    def gains(self, system: str, metric: str, *, over: str) -> list[float]:
        """One paired gain per row."""
        sign = _sign(self.metrics[metric])
        return [sign * (mine - other) for mine, other in zip(self.of(system, metric), self.of(over, metric), strict=True)]

    def part(self, places: Sequence[int]) -> "Scores":
        """The same systems and metrics on some of the rows."""
        return Scores(
            rows=[self.rows[place] for place in places],
            metrics=self.metrics,
            by_system=_chosen(self.by_system, places),
            statistics=_chosen(self.statistics, places),
            cluster_by=self.cluster_by,
        )

    def counted(self, metric: str) -> "Scores":
        """The rows that count for a metric: all of them, for most.

        Raises:
            NoRowCounts: none does.
        """
        kind = self.metrics[metric]
        if kind.counts is None:
            return self
        places = [place for place, row in enumerate(self.rows) if kind.counted(row)]
        if not places:
            raise NoRowCounts(f"{metric}: none of {len(self.rows)} rows counts for it; drop the criterion, or bring rows of that kind")
        return self.part(places)

    @cached_property
    def _draws(self) -> Callable[[str, str], "NDArray[np.float64]"]:
        """The draws of a system in a metric of all rows together, made once: every bound and every gain reads the same."""

        @cache
        def draws(system: str, metric: str) -> "NDArray[np.float64]":
            corpus = self.metrics[metric].corpus
            assert corpus is not None
            return drawn(corpus, self.statistics[system][metric], clusters=self.clusters)

        return draws


def _sign(metric: Metric) -> float:
    """By which a difference is more where it is better."""
    return -1.0 if metric.better == "lower" else 1.0


def _chosen(by_system: Mapping[str, Mapping[str, Sequence[T]]], places: Sequence[int]) -> dict[str, dict[str, list[T]]]:
    return {
        system: {name: [values[place] for place in places] for name, values in by_metric.items()} for system, by_metric in by_system.items()
    }


def reported_metrics(task: Task, objective: ObjectiveSpec) -> list[str]:
    """Metrics of the report: those that are usual for the task, and whatever a criterion asks for."""
    asked = [criterion.metric for criterion in (*objective.success, *objective.guards)]
    usual = [name for name in allowed_metrics(task) if metric_named(name, task).usual]
    return [name for name in dict.fromkeys([*usual, *asked]) if not metric_named(name, task).of_model]


def headline_metric(task: Task) -> str:
    """The metric in the first line: the whole answer is right, or the most telling one of a task where that means nothing."""
    allowed = allowed_metrics(task)
    return "exact_match" if "exact_match" in allowed else allowed[0]


def scored(
    rows: Sequence[Example],
    answers: Mapping[str, Sequence[str]],
    *,
    task: Task,
    metrics: Sequence[str],
    measured: Measured | None = None,
    cluster_by: str | None = None,
) -> Scores:
    """Score every answer against the row's completion.

    Args:
        rows: the test set, at least one row.
        answers: system -> one answer per row, in the order of `rows`.
        measured: system -> what programs measured for each answer, alike.
        cluster_by: see `Scores`.
    """
    kinds = {name: metric_named(name, task) for name in metrics}
    by_system, statistics = {}, {}
    for system, texts in answers.items():
        found = measured[system] if measured is not None else [{}] * len(rows)
        items = [Item(text, row.completion, task, row, numbers) for text, row, numbers in zip(texts, rows, found, strict=True)]
        by_system[system] = {name: [_score(kind, item) for item in items] for name, kind in kinds.items()}
        together = {name: kind.corpus for name, kind in kinds.items() if kind.corpus is not None}
        statistics[system] = {name: [corpus.row(item) for item in items] for name, corpus in together.items()}
    return Scores(rows=rows, metrics=kinds, by_system=by_system, statistics=statistics, cluster_by=cluster_by)


def score_rows(scores: Scores) -> Iterator[dict[str, Any]]:
    """The scores as rows of system, id and one number per metric for which the row counts."""
    for system, by_metric in scores.by_system.items():
        for place, row in enumerate(scores.rows):
            counted = {name: numbers[place] for name, numbers in by_metric.items() if scores.metrics[name].counted(row)}
            yield {"system": system, "id": row.id, **counted}


def statistics_rows(scores: Scores) -> Iterator[dict[str, Any]]:
    """What metrics of all rows together are made of, as rows of system, id and a list of numbers per metric; none if there is no such."""
    for system, by_metric in scores.statistics.items():
        for place, row in enumerate(scores.rows):
            if by_metric:
                yield {"system": system, "id": row.id, **{name: list(numbers[place]) for name, numbers in by_metric.items()}}


def _score(metric: Metric, item: Item) -> float:
    """0 for a row that does not count, so that every row has a number."""
    return metric.score(item) if metric.counted(item.answered) else 0.0


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
