"""One-sided bounds of a mean on few rows: Wilson's, which stays careful for any score between two known ends."""

from collections.abc import Sequence
from math import isinf, sqrt
from statistics import NormalDist, fmean, pstdev

from fine_tune_pipeline.guide.objective.shares import share_bounds


def lower_bound(scores: Sequence[float], *, low: float, high: float, level: float) -> float:
    """The value that the true mean exceeds with probability `level`.

    For scores of 0 or 1 it is Wilson's bound; for scores between, it takes the variance as large as it could be. A score without an
    upper end gets the normal bound from its spread.

    Args:
        low: smallest possible score.
        high: largest possible score, or infinity.
    """
    rows, mean = len(scores), fmean(scores)
    if isinf(high):
        return mean - NormalDist().inv_cdf(level) * pstdev(scores) / sqrt(rows)
    return low + (high - low) * share_bounds((mean - low) / (high - low), rows, level=level)[0]


def upper_bound(scores: Sequence[float], *, low: float, high: float, level: float) -> float:
    """The value that the true mean stays below with probability `level`."""
    if isinf(high):
        return 2 * fmean(scores) - lower_bound(scores, low=low, high=high, level=level)
    return low + high - lower_bound([low + high - score for score in scores], low=low, high=high, level=level)
