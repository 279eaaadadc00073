"""A figure as the report keeps it: an estimate with the rows it rests on and a two-sided interval, or why there is none.

Keys: `estimate`, `low`, `high` (None where nothing bounds it, as for the 95th percentile of few values), `method`, `n` rows in `groups`
that are independent, and `why` where there is no interval at all.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any

from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.statistics import mean_bounds, two_sided, wilson

SHOWN_LEVEL = 0.95
"""Of the two-sided intervals in tables and charts; verdicts use one-sided bounds at `evidence.level`."""

Figure = dict[str, Any]


def finite(number: float | None) -> float | None:
    """JSON has no infinity: a bound of an unbounded metric may be absent."""
    return number if number is not None and math.isfinite(number) else None


def figure_of(bounds: Bounds) -> Figure:
    """Of bounds that are one-sided at the level that makes two of them a two-sided interval."""
    return {
        "estimate": bounds.estimate,
        "low": finite(bounds.lower),
        "high": finite(bounds.upper),
        "method": bounds.method,
        "n": bounds.rows,
        "groups": bounds.clusters,
    }


def share_of(right: Sequence[bool], *, clusters: Sequence[Hashable] | None = None) -> Figure:
    """The share that is true, at least one: Wilson's interval, widened where rows belong together.

    Args:
        clusters: what each row shares its fate with; None when rows are independent.
    """
    level = two_sided(SHOWN_LEVEL)
    return figure_of(mean_bounds([float(one) for one in right], level=level, clusters=clusters, binary=True, share=wilson))


def quantile_of(values: Sequence[float], share: float) -> Figure:
    """The smallest value that `share` of the values do not exceed, between two order statistics; for times and other skewed numbers.

    The interval holds with at least `SHOWN_LEVEL` whatever the distribution is. Few values do not bound a high percentile from above:
    that takes 72 for the 95th, and `high` is None below.

    Args:
        values: independent ones, at least one.
        share: above 0, below 1.

    Source: H. A. David and H. N. Nagaraja, Order Statistics (2003), 7.1; `test_figure.py` compares with scipy.stats.quantile_test.
    """
    from scipy.stats import binom

    ordered, count, tail = sorted(values), len(values), (1 - SHOWN_LEVEL) / 2
    # As many values as the first place stand below the quantile with probability 1 - tail, and alike from above.
    below = [place for place in range(1, count + 1) if binom.cdf(place - 1, count, share) <= tail]
    above = [place for place in range(1, count + 1) if binom.cdf(place - 1, count, share) >= 1 - tail]
    return {
        "estimate": ordered[math.ceil(share * count) - 1],
        "low": ordered[below[-1] - 1] if below else None,
        "high": ordered[above[0] - 1] if above else None,
        "method": "order_statistics",
        "n": count,
        "groups": count,
    }
