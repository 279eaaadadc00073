"""The estimate of what is left against numbers that are known otherwise."""

import pytest
from scipy.stats import binom

from fine_tune_pipeline.guide.dataset.scrubbing.residue_estimate import Estimate


@pytest.mark.parametrize(("seen", "rows"), [(0, 20), (1, 60), (7, 150), (40, 80)])
def test_at_the_upper_bound_so_few_would_be_seen_once_in_twenty_times(seen, rows):
    assert binom.cdf(seen, rows, Estimate(rows, seen).upper) == pytest.approx(0.05)


def test_none_among_three_hundred_is_about_one_in_a_hundred():
    assert Estimate(300, 0).upper == pytest.approx(1 - 0.05 ** (1 / 300))


def test_nobody_looking_proves_nothing():
    nothing = Estimate(0, 0)
    assert (nothing.share, nothing.upper) == (0.0, 1.0)
    assert "is unknown" in nothing.said(100)
    assert Estimate(5, 5).upper == 1.0


def test_it_says_the_bound_in_rows_and_that_recall_is_never_one():
    said = Estimate(100, 2).said(1000)
    assert "2 of 100 rows drawn at random (2.0%)" in said
    assert "at most 6.2% of the rows hold some, 61 of 1,000" in said
    assert "never 1" in said
