"""Bounds of a share: Wilson's, by which steps 4 and 7 judge, and exact ones, which are never too narrow."""

from math import sqrt
from statistics import NormalDist


def share_bounds(share: float, rows: int, *, level: float) -> tuple[float, float]:
    """Two values, each of which the true share keeps to with probability `level`: it lies above the first, and below the second.

    Args:
        share: seen, 0 to 1. Of a mean of scores between 0 and 1 the bounds are on the careful side: they take the largest variance.
        rows: at least 1.

    Source: E. B. Wilson, JASA 22 (1927), 209-212; `test_shares.py` compares with scipy.
    """
    z = NormalDist().inv_cdf(level)
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    # Rounding may push a share of 1 a hair above it.
    spread = z / (1 + z * z / rows) * sqrt(max(0.0, share * (1 - share)) / rows + z * z / (4 * rows * rows))
    # The share is inside, also where rounding says otherwise by a hair.
    return max(0.0, min(share, centre - spread)), min(1.0, max(share, centre + spread))


def exact_share_bounds(successes: float, rows: int, *, level: float) -> tuple[float, float]:
    """Like `share_bounds`, but each holds with at least probability `level` whatever the true share is, also for none among few rows.

    Source: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934), 404-413; `test_shares.py` compares with scipy.
    """
    from scipy.stats import beta

    lower = 0.0 if successes == 0 else float(beta.ppf(1 - level, successes, rows - successes + 1))
    upper = 1.0 if successes == rows else float(beta.ppf(level, successes + 1, rows - successes))
    return lower, upper
