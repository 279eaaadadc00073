import numpy as np
import pytest
from scipy.stats import binom, fisher_exact

from fine_tune_pipeline.guide.evaluation.analysis.p_values import against_rest, more_failures_p, p_below_zero
from fine_tune_pipeline.guide.evaluation.statistics import gain_bounds, mean_bounds

ALONE = [str(place) for place in range(400)]


@pytest.mark.parametrize(("wins", "losses"), [(0, 3), (1, 7), (2, 6), (0, 9)])
def test_few_pairs_that_differ_get_mcnemars_mid_p(wins: int, losses: int):
    gains = [1.0] * wins + [-1.0] * losses + [0.0] * 40
    found = p_below_zero(lambda level: gain_bounds(gains, level=level, binary=True))
    differ = wins + losses
    assert found == pytest.approx(binom.cdf(wins - 1, differ, 0.5) + binom.pmf(wins, differ, 0.5) / 2, rel=0.01)


def test_a_mean_that_is_not_below_zero_is_not_shown_to_be():
    assert p_below_zero(lambda level: gain_bounds([0.1] * 30 + [0.0] * 30, level=level)) == 1.0


def test_at_the_p_value_the_bound_touches_zero():
    draw = np.random.default_rng(0)
    gains = (draw.normal(-0.1, 0.5, size=60)).tolist()
    found = p_below_zero(lambda level: gain_bounds(gains, level=level))
    assert 0.001 < found < 0.3
    assert gain_bounds(gains, level=1 - found).upper == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("failures", "rows", "all_failures", "all_rows"), [(9, 50, 12, 200), (3, 60, 30, 200), (0, 50, 0, 100), (50, 50, 60, 90)]
)
def test_failures_of_independent_rows_get_fishers_exact_p(failures: int, rows: int, all_failures: int, all_rows: int):
    table = [[failures, rows - failures], [all_failures - failures, all_rows - rows - all_failures + failures]]
    assert more_failures_p(failures, rows, all_failures, all_rows) == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def test_the_difference_to_the_rest_has_the_error_of_two_means():
    draw = np.random.default_rng(1)
    scores, inside = draw.normal(0.5, 0.2, size=400), np.arange(400) < 100
    found = against_rest(scores.tolist(), np.flatnonzero(inside).tolist(), clusters=ALONE, level=0.975, span=1.0)
    own, other = scores[inside], scores[~inside]
    error = (own.var() / len(own) + other.var() / len(other)) ** 0.5
    assert found.estimate == pytest.approx(own.mean() - other.mean())
    assert (found.upper - found.lower) / 2 == pytest.approx(1.97 * error, rel=0.03)


def test_graded_scores_get_nearly_the_p_value_of_all_permutations():
    draw = np.random.default_rng(2)
    scores = draw.beta(4, 2, size=300)
    scores[:60] -= 0.05
    found = p_below_zero(lambda level: against_rest(scores.tolist(), range(60), clusters=ALONE[:300], level=level, span=1.0))
    seen = scores[:60].mean()
    permuted = np.array([draw.permutation(scores)[:60].mean() for _ in range(5000)])
    assert found == pytest.approx((permuted <= seen).mean(), abs=0.02)


def test_rows_that_share_their_fate_make_a_difference_less_sure():
    draw = np.random.default_rng(3)
    by_group = draw.random(50)
    scores = np.repeat(by_group, 4).tolist()
    groups = [str(place // 4) for place in range(200)]
    alone = against_rest(scores, range(80), clusters=ALONE[:200], level=0.975, span=1.0)
    together = against_rest(scores, range(80), clusters=groups, level=0.975, span=1.0)
    whole = mean_bounds(by_group[:20].tolist(), level=0.975)
    assert together.upper - together.lower > 1.7 * (alone.upper - alone.lower)
    assert together.upper - together.lower > whole.upper - whole.lower


def test_scores_that_are_all_equal_leave_what_may_be_unseen():
    found = against_rest([1.0] * 100, range(50), clusters=ALONE[:100], level=0.975, span=1.0)
    assert (found.estimate, found.method) == (0.0, "constant")
    assert -0.1 < found.lower < 0 < found.upper < 0.1
