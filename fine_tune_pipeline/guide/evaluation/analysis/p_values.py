"""p-values by the bounds that the gate uses, so that a slice and a verdict never say different things of the same rows."""

from collections.abc import Callable, Hashable, Sequence
from math import exp, log

from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.statistics import gain_bounds

LEAST_P = 1e-5
"""Below this a p-value is not looked for: the sign-flip test has 20,000 draws."""

HALVINGS = 14
"""Of the range of the logarithm: three digits of the p-value."""


def p_below_zero(bounds: Callable[[float], Bounds]) -> float:
    """The smallest 1 - level at which the upper bound lies below 0: the p-value of "not below 0"; 1 if not even the level .5 shows it.

    Args:
        bounds: gives the bounds at a level.
    """
    if bounds(0.5).upper >= 0:
        return 1.0
    shown, open_ = log(0.5), log(LEAST_P)
    if bounds(1 - LEAST_P).upper < 0:
        return LEAST_P
    for _ in range(HALVINGS):
        middle = (shown + open_) / 2
        if bounds(1 - exp(middle)).upper < 0:
            shown = middle
        else:
            open_ = middle
    return exp(shown)


def more_failures_p(failures: int, rows: int, all_failures: int, all_rows: int) -> float:
    """Fisher's exact one-sided test: the chance of at least so many failures among `rows` drawn from all rows."""
    from scipy.stats import hypergeom

    return min(1.0, float(hypergeom.sf(failures - 1, all_rows, all_failures, rows)))


def against_rest(scores: Sequence[float], places: Sequence[int], *, clusters: Sequence[Hashable], level: float, span: float) -> Bounds:
    """Bounds of the mean over `places` minus the mean over the other rows, each one-sided at `level`.

    Each row counts with its influence on the difference, so the bounds are those of a paired gain, errors of whole clusters included,
    also of clusters that lie on both sides. With few clusters their signs are flipped (Hemerik, Goeman and Finos, J. R. Stat. Soc. B 82,
    2020, 841-864).

    Args:
        places: some of the rows, not all and not none.
        span: the largest possible difference.
    """
    import numpy as np

    values, inside = np.asarray(scores, dtype=float), np.zeros(len(scores), dtype=bool)
    inside[list(places)] = True
    own, other = values[inside].mean(), values[~inside].mean()
    influence = np.where(inside, (values - own) / inside.sum(), (other - values) / (~inside).sum()) * len(values)
    return gain_bounds((influence + own - other).tolist(), level=level, clusters=clusters, span=span)
