"""Means of per-example scores by Hugging Face `evaluate`, without its hub.

`evaluate.load("accuracy")` downloads its metrics; a subclass of `evaluate.Metric` needs no network. The scores of each example are
computed elsewhere, without torch: the gate needs them one by one.
"""

import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import evaluate

from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import ScoreRequest, ScoreResult
from fine_tune_pipeline.programs.rows import BadRows, read_rows

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


def run(request: ScoreRequest, reporter: Reporter) -> ScoreResult:
    """The mean of every metric of every system.

    Raises:
        BadRows: a row without system or id, one that stands twice, a score that is no finite number, or a metric that only some of a
            system's rows have: its mean would be over other examples than the rest.
    """
    scores = _scores(request.scores)
    means: dict[str, dict[str, float]] = {}
    # The metrics keep their inputs in memory, but want a folder all the same.
    with tempfile.TemporaryDirectory() as folder:
        for done, (system, metrics) in enumerate(scores.items(), start=1):
            means[system] = {name: _mean(name, values, folder=folder) for name, values in metrics.items()}
            reporter.progress(done, len(scores), "score")
    return ScoreResult(means=means)


def _mean(name: str, values: list[float], *, folder: str) -> float:
    computed = MeanScore(config_name=name, keep_in_memory=True, cache_dir=folder).compute(scores=values)
    assert computed is not None
    return computed[name]


def _scores(path: str | Path) -> dict[str, dict[str, list[float]]]:
    """system -> metric -> the scores of its examples."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    rows: dict[str, int] = defaultdict(int)
    for row in read_rows(path, text_fields=NAMES, unique=NAMES):
        rows[row["system"]] += 1
        for name, value in _numbers(row, path=path).items():
            scores[row["system"]][name].append(value)
    for system, metrics in scores.items():
        for name, values in metrics.items():
            if len(values) != rows[system]:
                raise BadRows(f"{path}: only {len(values)} of the {rows[system]} rows of {system!r} have {name}; want it in all or in none")
    return {system: dict(metrics) for system, metrics in scores.items()}


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
