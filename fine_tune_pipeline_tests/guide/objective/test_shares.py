import pytest
from scipy.stats import binomtest

from fine_tune_pipeline.guide.objective.shares import exact_share_bounds, share_bounds


@pytest.mark.parametrize("rows", [1, 7, 60, 500])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.995])
def test_the_bounds_are_those_of_scipys_two_sided_interval(rows: int, level: float):
    for right in {0, 1, rows // 3, rows - 1, rows}:
        interval = binomtest(right, rows).proportion_ci(confidence_level=2 * level - 1, method="wilson")
        assert share_bounds(right / rows, rows, level=level) == pytest.approx((interval.low, interval.high), abs=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 60, 500])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.995])
def test_the_exact_bounds_are_those_of_scipys_exact_interval(rows: int, level: float):
    for right in {0, 1, rows // 3, rows - 1, rows}:
        interval = binomtest(right, rows).proportion_ci(confidence_level=2 * level - 1, method="exact")
        assert exact_share_bounds(right, rows, level=level) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_a_share_is_never_outside_its_bounds():
    for rows in range(1, 200):
        for share in (0.0, 1.0, 1 / 3):
            low, high = share_bounds(share, rows, level=0.95)
            assert 0.0 <= low <= share <= high <= 1.0
