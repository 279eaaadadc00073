"""One-sided bounds of a mean on few rows: Wilson's, which stays careful for any score between two known ends."""

from collections.abc import Sequence
from math import isinf, sqrt
from statistics import NormalDist, fmean, pstdev


def lower_bound(scores: Sequence[float], *, low: float, high: float, level: float) -> float:
    """The value that the true mean exceeds with probability `level`.

    For scores of 0 or 1 it is Wilson's bound; for scores between, it takes the variance as large as it could be. A score without an
    upper end gets the normal bound from its spread.

    Args:
        low: smallest possible score.
        high: largest possible score, or infinity.
    """
    z = NormalDist().inv_cdf(level)
    rows, mean = len(scores), fmean(scores)
    if isinf(high):
        return mean - z * pstdev(scores) / sqrt(rows)
    share = (mean - low) / (high - low)
    centre = share + z * z / (2 * rows)
    spread = z * sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    # The rounding error of centre - spread must not fall below the end.
    return low + (high - low) * max(0.0, (centre - spread) / (1 + z * z / rows))


def upper_bound(scores: Sequence[float], *, low: float, high: float, level: float) -> float:
    """The value that the true mean stays below with probability `level`."""
    if isinf(high):
        return 2 * fmean(scores) - lower_bound(scores, low=low, high=high, level=level)
    return low + high - lower_bound([low + high - score for score in scores], low=low, high=high, level=level)
