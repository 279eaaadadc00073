import random

import pytest
from scipy import stats

from fine_tune_pipeline.guide.evaluation.costs import latency
from fine_tune_pipeline.guide.evaluation.figure import quantile_of, share_of


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (3, 7), (40, 40), (170, 200)])
def test_share_has_wilsons_interval(right: int, rows: int):
    found = share_of([True] * right + [False] * (rows - right))
    wanted = stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert (found["estimate"], found["n"], found["groups"]) == (right / rows, rows, rows)


def test_share_of_rows_that_belong_together_is_less_sure():
    right = [place % 3 != 0 for place in range(30) for _ in range(4)]
    together = share_of(right, clusters=[str(place) for place in range(30) for _ in range(4)])
    alone = share_of(right)
    assert (together["n"], together["groups"]) == (120, 30)
    assert together["low"] < alone["low"] < alone["high"] < together["high"]


@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("count", [1, 5, 6, 10, 59, 72, 73, 200])
def test_quantile_has_the_order_statistics_of_scipy(count: int, share: float):
    draw = random.Random(count)
    values = [draw.lognormvariate(0, 1) for _ in range(count)]
    found = quantile_of(values, share)
    wanted = stats.quantile_test(values, p=share).confidence_interval(0.95)
    ends = [None if end != end else end for end in (wanted.low, wanted.high)]
    assert [found["low"], found["high"]] == ends
    assert found["estimate"] in values
    assert sum(value <= found["estimate"] for value in values) >= share * count
    assert found["n"] == count


def test_quantile_interval_holds_the_true_one_as_often_as_it_says():
    draw = random.Random(0)
    kept = 0
    for _ in range(2000):
        found = quantile_of([draw.expovariate(1) for _ in range(10)], 0.5)
        kept += found["low"] <= 0.6931471805599453 <= found["high"]
    assert kept / 2000 >= 0.95


def test_nothing_timed_has_no_latency():
    assert latency(()) is None
    assert latency((2.0,)) == {
        name: {"estimate": 2.0, "low": None, "high": None, "method": "order_statistics", "n": 1, "groups": 1} for name in ("p50", "p95")
    }
