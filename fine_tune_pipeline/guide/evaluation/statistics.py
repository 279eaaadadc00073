"""Bounds for means, shares and paired gains. Each is one-sided at its level: two of them at .975 are a two-sided 95 % interval.

Scores are plain sequences, one number per row; `clusters` names for each row what it shares its fate with (a document, a customer,
a group of near duplicates). Nothing here gives nan: constant scores and systems that agree on every row have bounds too.
`test_false_passes.py` measures how often each rule passes a system that it should not.
"""

from collections.abc import Callable, Hashable, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from fine_tune_pipeline.guide.evaluation.bounds import FEW_CLUSTERS, FEW_DIFFERENCES, Bounds, Method
from fine_tune_pipeline.guide.evaluation.clustered import codes, student_bounds
from fine_tune_pipeline.guide.evaluation.exact import mcnemar_bounds, sign_flip_bounds
from fine_tune_pipeline.guide.objective.shares import exact_share_bounds, share_bounds

if TYPE_CHECKING:
    import numpy as np

ShareBounds = Callable[[float, int, float], Bounds]
"""Successes, rows, level -> bounds of the share."""


class NoItems(ValueError):
    """There is nothing to compute from."""


class UnusableScore(ValueError):
    """A score is not a number."""


def wilson(successes: float, rows: int, level: float) -> Bounds:
    """Wilson's bounds of a share: two of them make the intervals of tables. One alone may pass 12 % instead of 5 %, so no gate uses it.

    Args:
        successes: 0 to `rows`; a sum of scores between 0 and 1 is taken too, and then the bounds are on the careful side.
        rows: at least 1.
        level: of each bound.
    """
    share = successes / rows
    return Bounds(share, *share_bounds(share, rows, level=level), level, "wilson", rows, rows)


def exact(successes: float, rows: int, level: float) -> Bounds:
    """Clopper and Pearson's bounds, for gates: with no failure in n rows 1 - share is below 1 - (1 - level)^(1/n), a rule of three."""
    return Bounds(successes / rows, *exact_share_bounds(successes, rows, level=level), level, "exact", rows, rows)


def mean_bounds(
    scores: Sequence[float],
    *,
    level: float,
    clusters: Sequence[Hashable] | None = None,
    low: float = 0.0,
    high: float = 1.0,
    binary: bool = False,
    share: ShareBounds = exact,
) -> Bounds:
    """Bounds of a mean score: those of a share for independent 0/1 scores, else Student's t over clusters.

    Clustered 0/1 scores get the wider of both. Where fewer than `FEW_DIFFERENCES` clusters hold another score than the commonest, there is
    no spread to measure: between two finite ends the loss is then taken as the share of clusters that are lost wholly.

    Args:
        scores: one per row.
        clusters: one name per row; None when rows are independent.
        low: lowest score that the metric can give.
        high: highest, may be infinite.
        binary: every score is 0 or 1.
        share: `exact` for a gate, `wilson` for the interval of a table.

    Raises:
        NoItems: there is no score.
        UnusableScore: names the first row whose score is not a number.
    """
    values, groups = _arrays(scores, clusters)
    rows, count = len(values), int(groups.max()) + 1
    if binary and count == rows:
        return share(float(values.sum()), rows, level)
    found = (
        None if isfinite(high) and _clusters_that_differ(values, groups) < FEW_DIFFERENCES else student_bounds(values, groups, level=level)
    )
    if found is None and isfinite(high):
        part = share(min(1.0, max(0.0, float((values.mean() - low) / (high - low)))) * count, count, level)
        lower, upper = (low + bound * (high - low) for bound in (part.lower, part.upper))
        return Bounds(float(values.mean()), lower, upper, level, part.method, rows, count)
    if found is None:
        ends = unseen_bounds(float(values.mean()), level=level, clusters=count, low=low, high=high)
        return Bounds(float(values.mean()), *ends, level, "constant", rows, count)
    if binary:
        independent = share(float(values.sum()), rows, level)
        found = min(found[0], independent.lower), max(found[1], independent.upper)
    return Bounds(float(values.mean()), max(low, found[0]), min(high, found[1]), level, "t", rows, count)


def gain_bounds(
    gains: Sequence[float], *, level: float, clusters: Sequence[Hashable] | None = None, span: float = 1.0, binary: bool = False
) -> Bounds:
    """Bounds of the mean paired gain of one system over another on the same rows.

    Student's t on clustered differences; with fewer than `FEW_CLUSTERS` clusters or `FEW_DIFFERENCES` of them that differ, exact ones:
    McNemar's mid-p for independent 0/1 scores, else the sign-flip test turned into a bound. No rule sees what the rows do not hold: a
    system that gains a little on many rows and loses much on few passes 6 to 11 % instead of 5 % when clusters are few (measured).

    Args:
        gains: score of the one minus score of the other, one per row; positive is better.
        clusters: one name per row; None when rows are independent.
        span: the largest possible gain of one row, may be infinite.
        binary: both scores are 0 or 1.

    Raises:
        NoItems, UnusableScore: as `mean_bounds`.
    """
    import numpy as np

    values, groups = _arrays(gains, clusters)
    rows, count = len(values), int(groups.max()) + 1
    differ = len(np.unique(groups[values != 0]))
    few = count < FEW_CLUSTERS or differ < FEW_DIFFERENCES
    found = None if few else student_bounds(values, groups, level=level)
    method: Method = "t"
    if found is None and binary and count == rows:
        method, found = "mcnemar", mcnemar_bounds(int((values > 0).sum()), int((values < 0).sum()), rows, level=level)
    if found is None and float(values.max() - values.min()) <= 1e-12:
        method, found = "constant", unseen_bounds(float(values.mean()), level=level, clusters=count, low=-span, high=span)
    if found is None:
        method, found = "sign_flip", sign_flip_bounds(values, groups, level=level)
    return Bounds(float(values.mean()), max(-span, found[0]), min(span, found[1]), level, method, rows, count)


def bootstrap_bounds(scores: Sequence[float], *, level: float, seed: int, draws: int = 10_000) -> Bounds:
    """Percentile bootstrap of a mean over items with scores between 0 and 1; constant scores get Wilson's bounds, not a width of 0."""
    import numpy as np

    if len(set(scores)) == 1:
        return wilson(sum(scores), len(scores), level)
    values = np.asarray(scores, dtype=float)
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, len(values), size=(draws, len(values)))].mean(axis=1)
    lower, upper = np.quantile(means, [1 - level, level])
    return Bounds(float(values.mean()), float(lower), float(upper), level, "bootstrap", len(values), len(values))


def two_sided(level: float) -> float:
    """The level of each bound of a two-sided interval, such as .975 for .95."""
    return (1 + level) / 2


def unseen_bounds(estimate: float, *, level: float, clusters: int, low: float, high: float) -> tuple[float, float]:
    """Bounds where nothing varies: a share of clusters that was not seen, 1 - (1 - level)^(1/clusters), may lie at either end.

    An end that is infinite says nothing of one cluster; of several, it is left away.
    """
    share = 1 - (1 - level) ** (1 / clusters)

    def towards(end: float) -> float:
        if isfinite(end):
            return estimate + share * (end - estimate)
        return estimate if clusters > 1 else end

    return towards(low), towards(high)


def _arrays(scores: Sequence[float], clusters: Sequence[Hashable] | None) -> tuple["np.ndarray", "np.ndarray"]:
    import numpy as np

    values = np.asarray(scores, dtype=float)
    if not len(values):
        raise NoItems("no row, so there is no score to judge; bring held-out rows, or leave out what selects none of them")
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UnusableScore(f"row {place + 1} of {len(values)}: its score is {values[place]}, want a finite number; mend the metric")
    assert clusters is None or len(clusters) == len(values)
    return values, np.arange(len(values)) if clusters is None else codes(clusters)


def _clusters_that_differ(values: "np.ndarray", groups: "np.ndarray") -> int:
    """How many clusters hold another score than the commonest."""
    import numpy as np

    found, counts = np.unique(values, return_counts=True)
    return len(np.unique(groups[values != found[counts.argmax()]]))
