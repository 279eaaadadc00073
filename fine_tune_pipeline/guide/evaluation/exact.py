"""Bounds by exact tests of paired gains: few clusters, or few rows on which two systems differ."""

from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, cast

from fine_tune_pipeline.guide.evaluation.bounds import FEW_CLUSTERS
from fine_tune_pipeline.guide.objective.shares import exact_share_bounds

if TYPE_CHECKING:
    import numpy as np

EXACT_CLUSTERS = 14
"""Up to so many clusters every sign pattern is looked at (16,384); above, `DRAWS` seeded ones."""

DRAWS = 20_000
CHUNK = 500
"""Patterns held at once where there are many clusters, so that memory does not grow with the draws."""


def mcnemar_bounds(wins: int, losses: int, rows: int, *, level: float) -> tuple[float, float]:
    """Bounds of the mean gain of 0/1 scores. The lower one is above 0 exactly when McNemar's mid-p is below 1 - level.

    gain = (share of rows that differ) · (2 · P(win | differs) - 1); both factors are replaced by their less favourable bound.
    """
    differ = exact_share_bounds(wins + losses, rows, level=level)

    def lower(won: int, lost: int) -> float:
        balance = 2 * _mid_p_lower(won, won + lost, level=level) - 1
        return balance * (differ[0] if balance > 0 else differ[1])

    return lower(wins, losses), -lower(losses, wins)


def sign_flip_bounds(gains: "np.ndarray", groups: "np.ndarray", *, level: float) -> tuple[float, float]:
    """The sign-flip test on cluster sums, turned into bounds.

    Flipping the signs of a subset of the clusters gives at least the seen total exactly when the mean gain of that subset is at most the
    margin that is tested (Hartigan 1969). So the bound is a quantile of the means of subsets, the empty one counting as "at most":
    `lower > margin` is the same as the test's "yes". With too few clusters for the level there is no bound: -inf and inf.

    Args:
        groups: the cluster of each row, as `codes` gives it.
    """
    import numpy as np

    means = _subset_means(np.column_stack([np.bincount(groups, weights=gains), np.bincount(groups)]))
    # + 1: the empty subset, that is the pattern that was seen. The 1e-9 undoes rounding of 1 - level.
    place = int((1 - level) * (len(means) + 1) + 1e-9)
    if not place:
        return -inf, inf
    ordered = np.partition(means, (place - 1, len(means) - place))
    return float(ordered[place - 1]), float(ordered[-place])


def _mid_p_lower(successes: int, trials: int, *, level: float) -> float:
    """The probability p for which P(X > successes) + P(X = successes) / 2 is 1 - level, X ~ Bin(trials, p)."""
    from scipy.optimize import brentq
    from scipy.stats import binom

    if successes == 0:
        return 0.0

    def excess(p: float) -> float:
        return float(binom.sf(successes, trials, p) + binom.pmf(successes, trials, p) / 2) - (1 - level)

    return cast(float, brentq(excess, 0.0, 1.0, xtol=1e-12))


def _subset_means(totals: "np.ndarray") -> "np.ndarray":
    """Mean gains of non-empty subsets of the clusters: of all subsets, or of `DRAWS` seeded ones. A row of `totals` is sum and size."""
    import numpy as np

    clusters = len(totals)
    if clusters < FEW_CLUSTERS:
        found = _patterns(clusters) @ totals
    else:
        generator = np.random.default_rng(0)
        found = np.concatenate([generator.integers(0, 2, size=(CHUNK, clusters)) @ totals for _ in range(DRAWS // CHUNK)])
    found = found[found[:, 1] > 0]
    return cast("np.ndarray", found[:, 0] / found[:, 1])


@lru_cache(maxsize=4)
def _patterns(clusters: int) -> "np.ndarray":
    """One row per subset, 1 for its members; the same for every metric of a report."""
    import numpy as np

    if clusters <= EXACT_CLUSTERS:
        return ((np.arange(1, 2**clusters)[:, None] >> np.arange(clusters)) & 1).astype(float)
    return np.random.default_rng(0).integers(0, 2, size=(DRAWS, clusters)).astype(float)
