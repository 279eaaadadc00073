"""Wilson's bounds of a share: steps 4 and 7 judge by them."""

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
