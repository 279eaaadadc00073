import itertools
import math
import random

import numpy as np
import pytest
from scipy.stats import binom, binomtest, ttest_1samp

from fine_tune_pipeline.guide.evaluation.statistics import Bounds, bootstrap_bounds, gain_bounds, mean_bounds, two_sided, wilson


@pytest.mark.parametrize(("successes", "rows"), [(0, 10), (1, 30), (85, 100), (200, 200)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.975])
def test_wilson_agrees_with_scipy(successes: int, rows: int, level: float):
    interval = binomtest(successes, rows).proportion_ci(2 * level - 1, method="wilson")
    found = wilson(successes, rows, level=level)
    assert (found.lower, found.upper) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_independent_shares_get_exact_bounds_in_a_gate_and_wilsons_in_a_table():
    shares = [1.0] * 40 + [0.0] * 10
    found = mean_bounds(shares, level=0.95, binary=True)
    interval = binomtest(40, 50).proportion_ci(0.9, method="exact")
    assert (found.lower, found.upper, found.method) == (pytest.approx(interval.low), pytest.approx(interval.high), "exact")
    assert mean_bounds(shares, level=0.95, binary=True, share=wilson) == wilson(40, 50, level=0.95)


@pytest.mark.parametrize(("rows", "unseen"), [(30, 0.095), (100, 0.030), (300, 0.010)])
def test_no_failure_in_n_rows_leaves_about_three_nths_open(rows: int, unseen: float):
    found = mean_bounds([1.0] * rows, level=0.95, binary=True)
    assert 1 - found.lower == pytest.approx(unseen, abs=0.001)
    assert 1 - found.lower == pytest.approx(1 - 0.05 ** (1 / rows))


def test_means_without_skew_get_student():
    draw = random.Random(1)
    scores = [draw.random() for _ in range(50)]
    scores = [*scores, *(1 - score for score in scores)]
    found = mean_bounds(scores, level=0.95)
    expected = ttest_1samp(scores, 0, alternative="greater").confidence_interval(0.95)
    assert found.method == "t"
    assert found.lower == pytest.approx(expected.low)


def test_clustered_mean_is_the_t_bound_over_clusters_of_equal_size():
    draw = np.random.default_rng(5)
    groups = np.repeat(np.arange(40), 3)
    scores = np.clip(0.5 + np.repeat(draw.normal(0, 0.2, 40), 3) + draw.normal(0, 0.1, 120), 0, 1)
    found = mean_bounds(scores.tolist(), level=0.95, clusters=groups.tolist())
    expected = ttest_1samp(scores.reshape(40, 3).mean(axis=1), 0, alternative="greater").confidence_interval(0.95)
    assert found.lower == pytest.approx(expected.low)
    assert found.lower < mean_bounds(scores.tolist(), level=0.95).lower, "rows that share their fate say less"


def test_clustered_shares_are_never_surer_than_independent_ones():
    scores = [1.0] * 99 + [0.0]
    clusters = [place // 2 for place in range(100)]
    assert mean_bounds(scores, level=0.95, clusters=clusters, binary=True).lower <= wilson(99, 100, level=0.95).lower


def test_gain_on_many_rows_is_the_paired_t_test():
    draw = np.random.default_rng(2)
    gains = draw.choice([1.0, -1.0, 0.0], p=[0.25, 0.1, 0.65], size=150)
    found = gain_bounds(gains.tolist(), level=0.95, binary=True)
    assert found.method == "t"
    # Never beyond Student's bounds, and hardly ever far inside: these gains have little skew.
    lower = ttest_1samp(gains, 0, alternative="greater").confidence_interval(0.95).low
    upper = ttest_1samp(gains, 0, alternative="less").confidence_interval(0.95).high
    assert lower - 0.002 < found.lower <= lower
    assert upper <= found.upper < upper + 0.002


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (4, 0), (3, 0), (7, 1), (6, 2), (5, 1), (0, 5)])
def test_few_disagreements_are_judged_by_mcnemars_mid_p(wins: int, losses: int):
    gains = [1.0] * wins + [-1.0] * losses + [0.0] * (200 - wins - losses)
    mid_p = sum(binom.pmf(k, wins + losses, 0.5) * (0.5 if k == wins else 1.0) for k in range(wins, wins + losses + 1))
    found = gain_bounds(gains, level=0.95, binary=True)
    assert found.method == "mcnemar"
    assert (found.lower > 0) == (mid_p < 0.05)
    assert found.lower <= found.estimate <= found.upper


def flip_p_value(sums: list[float], sizes: list[int], *, margin: float) -> float:
    """Share of all sign patterns whose total is at least the seen one."""
    shifted = [total - margin * size for total, size in zip(sums, sizes, strict=True)]
    totals = [
        sum(sign * value for sign, value in zip(signs, shifted, strict=True)) for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    return sum(total >= sum(shifted) - 1e-12 for total in totals) / len(totals)


def test_few_clusters_are_judged_by_all_sign_patterns():
    draw = random.Random(4)
    for _ in range(12):
        clusters = sorted(draw.randrange(7) for _ in range(25))
        gains = [draw.gauss(0.2, 0.4) for _ in clusters]
        names = sorted(set(clusters))
        sums = [sum(gain for gain, cluster in zip(gains, clusters, strict=True) if cluster == name) for name in names]
        sizes = [clusters.count(name) for name in names]
        found = gain_bounds(gains, level=0.95, clusters=clusters, span=math.inf)
        assert found.method == "sign_flip"
        for margin in (0.0, 0.1, found.lower - 1e-6, found.lower + 1e-6):
            assert (found.lower > margin) == (flip_p_value(sums, sizes, margin=margin) <= 0.05)


def test_drawn_sign_patterns_come_near_to_all_of_them():
    draw = np.random.default_rng(8)
    gains = draw.normal(0.1, 0.3, 20)
    shifted = [flip_share(gains, margin) for margin in (-0.1, 0.0, 0.05)]
    found = [
        gain_bounds((gains - margin).tolist(), level=1 - max(share, 0.002), span=math.inf).lower
        for margin, share in zip((-0.1, 0.0, 0.05), shifted, strict=True)
    ]
    assert found == pytest.approx([0.0, 0.0, 0.0], abs=0.02)


def flip_share(gains: np.ndarray, margin: float) -> float:
    signs = 1 - 2 * ((np.arange(2 ** len(gains))[:, None] >> np.arange(len(gains))) & 1)
    return float(((signs @ (gains - margin)) >= (gains - margin).sum() - 1e-12).mean())


@pytest.mark.parametrize("gains", [[0.0] * 50, [0.0] * 5, [0.0], [1.0] * 50, [-1.0] * 50, [1.0], [0.25] * 40])
@pytest.mark.parametrize("binary", [True, False])
def test_equal_and_constant_systems_have_finite_bounds(gains: list[float], binary: bool):
    if binary and gains[0] == 0.25:
        gains = [1.0, 0.0] * 20
    found = gain_bounds(gains, level=0.95, binary=binary)
    assert -1 <= found.lower <= found.estimate <= found.upper <= 1


def test_two_systems_that_agree_everywhere_are_not_shown_to_be_equal():
    found = gain_bounds([0.0] * 100, level=0.95, binary=True)
    # Zero events in n rows: at most 1 - .05^(1/n).
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 100))
    assert found.lower == -found.upper


@pytest.mark.parametrize("scores", [[1.0] * 20, [0.0] * 20, [0.5] * 20, [1.0], [0.7, 0.7, 0.7]])
def test_constant_scores_have_a_width(scores: list[float]):
    for binary in {False, set(scores) <= {0.0, 1.0}}:
        found = mean_bounds(scores, level=0.95, binary=binary)
        assert 0 <= found.lower <= found.estimate <= found.upper <= 1
        assert found.upper - found.lower > 0.05


def test_unbounded_metric_needs_two_rows_for_bounds():
    alone = mean_bounds([1.5], level=0.95, low=0.0, high=math.inf)
    assert 0 <= alone.lower < 0.1
    assert alone.upper == math.inf
    assert mean_bounds([1.0, 2.0, 1.5], level=0.95, low=0.0, high=math.inf).lower >= 0.0


def test_a_useless_model_passes_in_at_most_6_5_percent_and_the_naive_rule_far_more_often():
    draw = np.random.default_rng(0)
    runs, rows = 1000, 100
    gains = draw.choice([1.0, -1.0, 0.0], p=[0.15, 0.15, 0.7], size=(runs, rows))
    passed = sum(gain_bounds(row.tolist(), level=0.95, binary=True).lower > 0 for row in gains)
    naive = int((gains.mean(axis=1) > 0).sum())
    assert passed / runs <= 0.065
    assert naive / runs > 0.4


def test_item_level_test_passes_too_often_on_clustered_rows_and_the_clustered_one_does_not():
    draw = np.random.default_rng(6)
    runs = 400
    clusters = np.repeat(np.arange(50), 4).tolist()
    gains = np.repeat(draw.normal(0, 0.3, (runs, 50)), 4, axis=1) + draw.normal(0, 0.3, (runs, 200))
    by_row = sum(gain_bounds(row.tolist(), level=0.95, span=math.inf).lower > 0 for row in gains)
    by_cluster = sum(gain_bounds(row.tolist(), level=0.95, clusters=clusters, span=math.inf).lower > 0 for row in gains)
    assert by_cluster / runs <= 0.075
    assert by_row / runs > 0.1


def test_a_margin_is_not_given_away_when_few_rows_differ():
    draw = np.random.default_rng(7)
    gains = draw.choice([1.0, -1.0, 0.0], p=[0.04, 0.01, 0.95], size=(300, 100))
    assert sum(gain_bounds(row.tolist(), level=0.95, binary=True).lower > 0.03 for row in gains) / 300 <= 0.065


def test_bootstrap_agrees_with_the_normal_bound_on_many_items_and_has_a_width_on_equal_ones():
    scores = np.random.default_rng(1).choice([0.0, 0.5, 1.0], size=400).tolist()
    found = bootstrap_bounds(scores, level=0.975, seed=0)
    error = np.std(scores, ddof=1) / np.sqrt(400)
    assert (found.lower, found.upper) == pytest.approx((found.estimate - 1.96 * error, found.estimate + 1.96 * error), abs=0.004)
    assert found == bootstrap_bounds(scores, level=0.975, seed=0)
    assert bootstrap_bounds([1.0] * 10, level=0.975, seed=0).lower == wilson(10, 10, level=0.975).lower


def test_two_sided_interval_is_two_one_sided_bounds():
    assert two_sided(0.95) == 0.975
    assert isinstance(wilson(1, 2, level=two_sided(0.95)), Bounds)
