"""Metrics of Hugging Face `evaluate`, without its hub.

`evaluate.load("accuracy")` downloads its metrics; a subclass of `evaluate.Metric` needs no network. The scores of each example are
computed elsewhere, without torch: the gate needs them one by one.
"""

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np

from fine_tune_pipeline.programs.named_work import named
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.rows import BadRows, read_rows
from fine_tune_pipeline.programs.score_requests import ScoreRequest, ScoreResult

NAMES = ("system", "id")


class MeanScore(evaluate.Metric):
    """The mean of one number per example; the metric's name is its configuration."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean of per-example scores.",
            citation="",
            inputs_description="scores: one number per example.",
            features=datasets.Features({"scores": datasets.Value("float64")}),
        )

    def _compute(self, *, scores: list[float]) -> dict[str, float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {self.config_name: math.fsum(scores) / len(scores)}


class TogetherScore(evaluate.Metric):
    """A metric of all examples together, such as macro-F1, from a few numbers of each; the metric's name is its configuration."""

    def __init__(self, value: Callable[["np.ndarray"], float], **settings: Any) -> None:
        """Args:
        value: what becomes of the numbers, [examples, numbers].
        """
        super().__init__(**settings)
        self._value = value

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="A metric of all examples together.",
            citation="",
            inputs_description="statistics: a list of numbers per example, all as long.",
            features=datasets.Features({"statistics": datasets.Sequence(datasets.Value("float64"))}),
        )

    def _compute(self, *, statistics: list[list[float]]) -> dict[str, float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {self.config_name: self._value(np.asarray(statistics, dtype=np.float64))}


class AnswerScore(evaluate.Metric):
    """The mean score of answers beside their references: any metric of a task that looks at these two alone.

    For notebooks and `evaluate.combine`; `score` is what `guide.objective.metrics.scorer` makes of a task and a metric's name.
    """

    def __init__(self, score: Callable[[str, str], float], **settings: Any) -> None:
        """Args:
        score: one prediction and its reference -> a number.
        """
        super().__init__(**settings)
        self._score = score

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean of the scores of answers.",
            citation="",
            inputs_description="predictions, references: one text per example.",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        scores = [self._score(prediction, reference) for prediction, reference in zip(predictions, references, strict=True)]
        return {self.config_name: math.fsum(scores) / len(scores)}


def run(request: ScoreRequest, reporter: Reporter) -> ScoreResult:
    """The mean of every metric of every system; metrics of all rows together from their numbers.

    Raises:
        BadRows: a row without system or id, one that stands twice, a score that is no finite number, or a metric that only some of a
            system's rows have without being `partial`: its mean would be over other examples than the rest.
    """
    scores = _scores(request.scores, partial=request.partial)
    together = {} if request.statistics is None else _statistics(request.statistics)
    means: dict[str, dict[str, float]] = {}
    # The metrics keep their inputs in memory, but want a folder all the same.
    with tempfile.TemporaryDirectory() as folder:
        for done, (system, metrics) in enumerate(scores.items(), start=1):
            means[system] = {name: _mean(name, values, folder=folder) for name, values in metrics.items()}
            for name, numbers in together.get(system, {}).items():
                means[system][name] = _together(name, numbers, function=request.value, folder=folder)
            reporter.progress(done, len(scores), "score")
    return ScoreResult(means=means)


def _mean(name: str, values: list[float], *, folder: str) -> float:
    computed = MeanScore(config_name=name, keep_in_memory=True, cache_dir=folder).compute(scores=values)
    assert computed is not None
    return computed[name]


def _together(name: str, numbers: Sequence[Sequence[float]], *, function: str, folder: str) -> float:
    metric = TogetherScore(named(function)({"metric": name}), config_name=name, keep_in_memory=True, cache_dir=folder)
    computed = metric.compute(statistics=numbers)
    assert computed is not None
    return computed[name]


def _scores(path: str | Path, *, partial: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """system -> metric -> the scores of its examples."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    rows: dict[str, int] = defaultdict(int)
    for row in read_rows(path, text_fields=NAMES, unique=NAMES):
        rows[row["system"]] += 1
        for name, value in _numbers(row, path=path).items():
            scores[row["system"]][name].append(value)
    for system, metrics in scores.items():
        for name, values in metrics.items():
            if len(values) != rows[system] and name not in partial:
                raise BadRows(f"{path}: only {len(values)} of the {rows[system]} rows of {system!r} have {name}; want it in all or in none")
    return {system: dict(metrics) for system, metrics in scores.items()}


def _statistics(path: str | Path) -> dict[str, dict[str, list[list[float]]]]:
    """system -> metric -> the numbers of its examples."""
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for row in read_rows(path, text_fields=NAMES, unique=NAMES):
        for name, numbers in row.items():
            if name not in NAMES:
                found[row["system"]][name].append(numbers)
    return found


def _numbers(row: Mapping[str, Any], *, path: str | Path) -> dict[str, float]:
    metrics = {name: value for name, value in row.items() if name not in NAMES}
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise BadRows(f"{path}: {name} of {row['id']!r} of {row['system']!r} is {value!r}, want a finite number")
    return metrics


def main() -> None:
    """Score as the request file says."""
    request = parse(ScoreRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
