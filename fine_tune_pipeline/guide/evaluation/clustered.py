"""Bounds of a mean whose rows come in clusters: Student's t, held back where the scores are skewed."""

from collections.abc import Hashable, Sequence
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def codes(clusters: Sequence[Hashable]) -> "np.ndarray":
    """A number from 0 for each row, the same for rows of one cluster, in the order of their first row."""
    import numpy as np

    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])


def student_bounds(scores: "np.ndarray", groups: "np.ndarray", *, level: float) -> tuple[float, float] | None:
    """Lower and upper bound of the mean, each one-sided at `level`; None when there is no spread to measure.

    The error is that of sums over clusters (Miller 2024, arXiv 2411.00640); with clusters of one row it is the ordinary one. Student's t
    alone passes 14 % instead of 5 % when nine of ten scores are 1 (50 rows, measured). So each bound is the more careful of Student's
    and that of the transformation by P. Hall (J. R. Stat. Soc. B 54, 1992, 221-228), which takes the skew out.

    Args:
        groups: the cluster of each row, as `codes` gives it.
    """
    import numpy as np
    from scipy.stats import t

    mean = scores.mean()
    sums = np.bincount(groups, weights=scores - mean)
    count, squares = len(sums), float((sums**2).sum())
    # Sums of equal numbers may miss zero by rounding.
    if count < 2 or squares <= 1e-18 * len(scores):
        return None
    error = sqrt(count / (count - 1) * squares) / len(scores)
    skew = float((sums**3).mean()) / (squares / count) ** 1.5 / sqrt(count)
    reach = float(t.ppf(level, count - 1))
    return float(mean - max(reach, _unskewed(reach, skew)) * error), float(mean + max(reach, -_unskewed(-reach, skew)) * error)


def _unskewed(quantile: float, skew: float) -> float:
    """The t value x for which Hall's x + skew x²/3 + skew² x³/27 + skew/6 is the quantile."""
    import numpy as np

    return quantile if abs(skew) < 1e-9 else 3 / skew * (float(np.cbrt(1 + skew * (quantile - skew / 6))) - 1)
