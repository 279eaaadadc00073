from math import inf

import pytest
from scipy.stats import binomtest, norm

from fine_tune_pipeline.guide.technique.bounds import lower_bound, upper_bound


@pytest.mark.parametrize(("right", "rows"), [(0, 10), (1, 10), (45, 60), (60, 60), (7, 200)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_for_right_and_wrong_it_is_wilsons_bound(right, rows, level):
    scores = [1.0] * right + [0.0] * (rows - right)
    lower = binomtest(right, rows, alternative="greater").proportion_ci(level, method="wilson").low
    upper = binomtest(right, rows, alternative="less").proportion_ci(level, method="wilson").high
    assert lower_bound(scores, low=0, high=1, level=level) == pytest.approx(lower)
    assert upper_bound(scores, low=0, high=1, level=level) == pytest.approx(upper)


def test_differences_between_minus_one_and_one_are_bounded_alike():
    gains = [1.0] * 40 + [0.0] * 15 + [-1.0] * 5
    bound = lower_bound(gains, low=-1, high=1, level=0.95)
    # The normal bound of these differences, which is narrower: a careful bound lies below it.
    mean, deviation = 35 / 60, (45 / 60 - (35 / 60) ** 2) ** 0.5
    assert 0.3 < bound < mean - norm.ppf(0.95) * deviation / 60**0.5


def test_a_score_without_an_end_gets_the_normal_bound():
    scores = [1.0, 2.0, 3.0, 4.0]
    expected = 2.5 - norm.ppf(0.95) * 1.25**0.5 / 2
    assert lower_bound(scores, low=0, high=inf, level=0.95) == pytest.approx(expected)
    assert upper_bound(scores, low=0, high=inf, level=0.95) == pytest.approx(5 - expected)
