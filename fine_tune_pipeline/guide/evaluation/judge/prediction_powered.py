"""Prediction-powered inference: a cheap judge on many rows, corrected by people on some of them.

A judge that prefers long answers, say, is wrong in the same way on all rows. People show on their rows how wrong, and that is taken off.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, variance

from fine_tune_pipeline.guide.evaluation.bounds import Bounds


def corrected(judged: Sequence[float], *, rated: Sequence[tuple[float, float]], level: float) -> Bounds:
    """The mean that people would give all rows, between 0 and 1, with bounds each of which holds at `level`.

    Args:
        judged: the judge's score of every row, those that people rated too among them; at least two.
        rated: people's score and the judge's of the same row, at least two; a random part of the rows.

    Source: A. Angelopoulos et al., Science 382 (2023), 669-674: mean judge + mean (people - judge), variance judge / N +
    (people - judge) / n. With the rated rows among all rows that is on the careful side as long as the judge is right more often than not.
    """
    from scipy.stats import t

    differences = [people - judge for people, judge in rated]
    mean = fmean(judged) + fmean(differences)
    # Where people and judge agree on every rated row, that is not known of the others: as if one row of n were judged wrongly.
    apart = max(variance(differences) / len(rated), 1 / len(rated) ** 2)
    error = sqrt(variance(judged) / len(judged) + apart)
    reach = float(t.ppf(level, len(rated) - 1)) * error
    inside = min(1.0, max(0.0, mean))
    ends = max(0.0, min(inside, mean - reach)), min(1.0, max(inside, mean + reach))
    return Bounds(inside, *ends, level, "t", len(judged), len(judged))
