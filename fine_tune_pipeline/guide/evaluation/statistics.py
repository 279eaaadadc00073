"""Bounds for means, shares and paired gains. Each is one-sided at its level: two of them at .975 are a two-sided 95 % interval.

Scores are plain sequences, one number per row; `clusters` names for each row what it shares its fate with (a document, a customer,
a group of near duplicates). Nothing here gives nan: constant scores and systems that agree on every row have bounds too.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import TYPE_CHECKING, Literal, cast

from fine_tune_pipeline.guide.objective.shares import exact_share_bounds, share_bounds

if TYPE_CHECKING:
    import numpy as np

Method = Literal["wilson", "t", "mcnemar", "sign_flip", "bootstrap", "none"]

FEW_CLUSTERS = 30
"""Below this the t bound passes too often (6.5 % instead of 5 % at n = 30, measured): exact tests there."""

FEW_DISAGREEMENTS = 10
"""Below this the differences are far from normal."""

EXACT_CLUSTERS = 14
"""Up to so many clusters every sign pattern is looked at (16,384); above, `DRAWS` seeded ones."""

DRAWS = 20_000
CHUNK = 500
"""Patterns held at once, so that memory does not grow with the draws."""


@dataclass(frozen=True)
class Bounds:
    """An estimate between a lower and an upper bound, each of which holds with probability `level`."""

    estimate: float
    lower: float
    upper: float
    level: float
    method: Method


def wilson(successes: float, rows: int, *, level: float) -> Bounds:
    """Wilson's bounds of a share.

    Args:
        successes: 0 to `rows`; a sum of scores between 0 and 1 is taken too, and then the bounds are on the careful side.
        rows: at least 1.
    """
    share = successes / rows
    return Bounds(share, *share_bounds(share, rows, level=level), level, "wilson")


def mean_bounds(
    scores: Sequence[float],
    *,
    level: float,
    clusters: Sequence[Hashable] | None = None,
    low: float = 0.0,
    high: float = 1.0,
    binary: bool = False,
) -> Bounds:
    """Bounds of a mean score: Wilson for independent 0/1 scores, else Student's t over clusters.

    Clustered 0/1 scores get the wider of both, since the t bound is blind when nearly all rows are right. Constant scores between 0 and 1
    have no spread to measure, so they get Wilson's bounds over clusters.

    Args:
        scores: one per row, at least one.
        clusters: one name per row; None when rows are independent.
        low: lowest score that the metric can give.
        high: highest, may be infinite.
        binary: every score is 0 or 1.
    """
    share = (low, high) == (0.0, 1.0)
    names = _names(scores, clusters)
    groups = len(set(names))
    if binary and groups == len(scores):
        return wilson(sum(scores), len(scores), level=level)
    bounds = _t_bounds(scores, names, level=level)
    if bounds is None:
        return _without_spread(scores, groups=groups, level=level, low=low, high=high, share=share)
    if binary:
        independent = wilson(sum(scores), len(scores), level=level)
        return Bounds(bounds.estimate, min(bounds.lower, independent.lower), max(bounds.upper, independent.upper), level, "t")
    return Bounds(bounds.estimate, max(low, bounds.lower), min(high, bounds.upper), level, "t")


def gain_bounds(
    gains: Sequence[float], *, level: float, clusters: Sequence[Hashable] | None = None, span: float = 1.0, binary: bool = False
) -> Bounds:
    """Bounds of the mean paired gain of one system over another on the same rows.

    Student's t on clustered differences; with fewer than `FEW_CLUSTERS` clusters or `FEW_DISAGREEMENTS` rows that differ, exact ones:
    McNemar's mid-p for independent 0/1 scores, else the sign-flip test turned into a bound.

    Args:
        gains: score of the one minus score of the other, one per row; positive is better.
        clusters: one name per row; None when rows are independent.
        span: the largest possible gain of one row, may be infinite.
        binary: both scores are 0 or 1.
    """
    names = _names(gains, clusters)
    groups = len(set(names))
    differ = sum(gain != 0 for gain in gains)
    bounds = None if groups < FEW_CLUSTERS or differ < FEW_DISAGREEMENTS else _t_bounds(gains, names, level=level)
    if bounds is None and binary and groups == len(gains):
        bounds = _mcnemar_bounds(gains, level=level)
    if bounds is None:
        bounds = _sign_flip_bounds(gains, names, level=level)
    return Bounds(bounds.estimate, max(-span, bounds.lower), min(span, bounds.upper), level, bounds.method)


def bootstrap_bounds(scores: Sequence[float], *, level: float, seed: int, draws: int = 10_000) -> Bounds:
    """Percentile bootstrap of a mean over items with scores between 0 and 1; constant scores get Wilson's bounds, not a width of 0."""
    import numpy as np

    if len(set(scores)) == 1:
        return wilson(sum(scores), len(scores), level=level)
    values = np.asarray(scores, dtype=float)
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, len(values), size=(draws, len(values)))].mean(axis=1)
    lower, upper = np.quantile(means, [1 - level, level])
    return Bounds(float(values.mean()), float(lower), float(upper), level, "bootstrap")


def two_sided(level: float) -> float:
    """The level of each bound of a two-sided interval, such as .975 for .95."""
    return (1 + level) / 2


def _names(scores: Sequence[float], clusters: Sequence[Hashable] | None) -> Sequence[Hashable]:
    assert scores, "no rows"
    assert clusters is None or len(clusters) == len(scores)
    return range(len(scores)) if clusters is None else clusters


def _t_bounds(scores: Sequence[float], clusters: Sequence[Hashable], *, level: float) -> Bounds | None:
    """Student's t with the clustered standard error (Miller 2024, arXiv 2411.00640); None when there is no spread to measure.

    With clusters of one row it is the ordinary t bound, n - 1 included.
    """
    from scipy.stats import t

    rows, mean = len(scores), sum(scores) / len(scores)
    sums: dict[Hashable, float] = defaultdict(float)
    for score, cluster in zip(scores, clusters, strict=True):
        sums[cluster] += score - mean
    groups = len(sums)
    squares = sum(total * total for total in sums.values())
    # Sums of equal numbers may miss zero by rounding.
    if groups < 2 or squares <= 1e-18 * rows:
        return None
    error = sqrt(groups / (groups - 1) * squares) / rows
    reach = float(t.ppf(level, groups - 1)) * error
    return Bounds(mean, mean - reach, mean + reach, level, "t")


def _without_spread(scores: Sequence[float], *, groups: int, level: float, low: float, high: float, share: bool) -> Bounds:
    mean = sum(scores) / len(scores)
    if share:
        return wilson(min(1.0, max(0.0, mean)) * groups, groups, level=level)
    return Bounds(mean, low if groups < 2 else mean, high if groups < 2 else mean, level, "none")


def _mcnemar_bounds(gains: Sequence[float], *, level: float) -> Bounds:
    """Bounds from the rows that differ. The lower one is above 0 exactly when McNemar's mid-p is below 1 - level.

    gain = (share of rows that differ) · (2 · P(win | differs) - 1); both factors are replaced by their less favourable bound.
    """
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    differ = exact_share_bounds(wins + losses, len(gains), level=level)

    def lower(won: int, lost: int) -> float:
        balance = 2 * _mid_p_lower(won, won + lost, level=level) - 1
        return balance * (differ[0] if balance > 0 else differ[1])

    return Bounds(sum(gains) / len(gains), lower(wins, losses), -lower(losses, wins), level, "mcnemar")


def _mid_p_lower(successes: int, trials: int, *, level: float) -> float:
    """The probability p for which P(X > successes) + P(X = successes) / 2 is 1 - level, X ~ Bin(trials, p)."""
    from scipy.optimize import brentq
    from scipy.stats import binom

    if successes == 0:
        return 0.0

    def excess(p: float) -> float:
        return float(binom.sf(successes, trials, p) + binom.pmf(successes, trials, p) / 2) - (1 - level)

    return cast(float, brentq(excess, 0.0, 1.0, xtol=1e-12))


def _sign_flip_bounds(gains: Sequence[float], clusters: Sequence[Hashable], *, level: float) -> Bounds:
    """The sign-flip test on cluster sums, turned into bounds.

    Flipping the signs of a subset of the clusters gives at least the seen total exactly when the mean gain of that subset is at most the
    margin that is tested (Hartigan 1969). So the bound is a quantile of the means of subsets, the empty one counting as "at most":
    `lower > margin` is the same as the test's "yes".
    """
    sums: dict[Hashable, float] = defaultdict(float)
    sizes: dict[Hashable, int] = defaultdict(int)
    for gain, cluster in zip(gains, clusters, strict=True):
        sums[cluster] += gain
        sizes[cluster] += 1
    means = _subset_means(list(sums.values()), list(sizes.values()))
    # + 1: the empty subset, that is the pattern that was seen. The 1e-9 undoes rounding of 1 - level.
    place = int((1 - level) * (len(means) + 1) + 1e-9)
    lower, upper = (float(means[place - 1]), float(means[-place])) if place else (-inf, inf)
    return Bounds(sum(gains) / len(gains), lower, upper, level, "sign_flip")


def _subset_means(sums: Sequence[float], sizes: Sequence[int]) -> "np.ndarray":
    """Mean gains of non-empty subsets of the clusters, ascending: of all subsets, or of `DRAWS` seeded ones."""
    import numpy as np

    totals = np.column_stack([np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)])
    if len(sums) <= EXACT_CLUSTERS:
        members = (np.arange(1, 2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        found = members @ totals
    else:
        generator = np.random.default_rng(0)
        found = np.concatenate([generator.integers(0, 2, size=(CHUNK, len(sums))) @ totals for _ in range(DRAWS // CHUNK)])
        found = found[found[:, 1] > 0]
    return np.sort(found[:, 0] / found[:, 1])
