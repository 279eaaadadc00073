"""Bounds of metrics of all rows together, such as macro-F1: a percentile bootstrap over clusters.

Every system is judged on the same draws of the same rows, so the gain of one over another is paired.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from fine_tune_pipeline.guide.evaluation.statistics import Bounds
from fine_tune_pipeline.guide.objective.measures.item import Corpus
from fine_tune_pipeline.guide.objective.shares import share_bounds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWS = 5_000
SEED = 0


def drawn(corpus: Corpus, rows: Sequence[Sequence[float]], *, clusters: Sequence[Hashable], draws: int = DRAWS) -> "NDArray[np.float64]":
    """The metric on resampled rows, [draws]: whole clusters are drawn, as many as there are.

    The draws depend on the clusters alone, so those of two systems belong together one by one.

    Args:
        rows: the numbers of each row, at least one row.
        clusters: what each row shares its fate with.
    """
    import numpy as np

    numbers, groups = np.asarray(rows, dtype=np.float64), _places(clusters)
    generator = np.random.default_rng(SEED)
    if len(groups) == len(numbers):
        return np.array([corpus.value(numbers[generator.integers(0, len(numbers), size=len(numbers))]) for _ in range(draws)])
    return np.array(
        [
            corpus.value(numbers[np.concatenate([groups[place] for place in generator.integers(0, len(groups), size=len(groups))])])
            for _ in range(draws)
        ]
    )


def corpus_bounds(estimate: float, found: "NDArray[np.float64]", *, level: float, clusters: int, low: float, high: float) -> Bounds:
    """Bounds of the metric from its draws. Draws that are all alike show no spread: then bounds of a share of the clusters.

    Args:
        clusters: how many were drawn from.
    """
    lower, upper = _quantiles(found, level)
    if lower == upper:
        share = share_bounds(min(1.0, max(0.0, (estimate - low) / (high - low))), clusters, level=level)
        lower, upper = (low + bound * (high - low) for bound in share)
    return Bounds(estimate, max(low, min(lower, estimate)), min(high, max(upper, estimate)), level, "bootstrap")


def corpus_gain_bounds(estimate: float, gains: "NDArray[np.float64]", *, level: float, clusters: int, span: float) -> Bounds:
    """Bounds of the gain from the paired differences of the draws. Systems that never differ may still do so on rows that were not seen."""
    lower, upper = _quantiles(gains, level)
    if lower == upper:
        unseen = span * share_bounds(0.0, clusters, level=level)[1]
        lower, upper = estimate - unseen, estimate + unseen
    return Bounds(estimate, max(-span, min(lower, estimate)), min(span, max(upper, estimate)), level, "bootstrap")


def _quantiles(found: "NDArray[np.float64]", level: float) -> tuple[float, float]:
    import numpy as np

    lower, upper = np.quantile(found, [1 - level, level])
    return float(lower), float(upper)


def _places(clusters: Sequence[Hashable]) -> list[list[int]]:
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, cluster in enumerate(clusters):
        places[cluster].append(place)
    return list(places.values())
