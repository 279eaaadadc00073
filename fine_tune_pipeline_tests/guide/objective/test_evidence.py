import numpy as np
import pytest
from scipy.stats import binomtest, norm

from fine_tune_pipeline.guide.objective.evidence import best_lower_bound, rows_for_target, rows_to_detect, smallest_detectable_gain


@pytest.mark.parametrize(("rows", "disagreement", "published"), [(100, 0.3, 0.13), (200, 0.3, 0.095), (500, 0.3, 0.061), (500, 0.1, 0.035)])
def test_detectable_gain_is_the_measured_table_of_the_research(rows: int, disagreement: float, published: float):
    found = smallest_detectable_gain(rows, level=0.95, power=0.8, disagreement=disagreement)
    assert found.gain == pytest.approx(published, abs=0.004)


@pytest.mark.parametrize("rows", [20, 200, 3000])
def test_detectable_gain_solves_the_sample_size_formula(rows: int):
    gain = smallest_detectable_gain(rows, level=0.9, power=0.7, disagreement=0.2).gain
    z = norm.ppf(0.9) + norm.ppf(0.7)
    assert z**2 * (0.2 - gain**2) / gain**2 == pytest.approx(rows)
    assert rows_to_detect(gain * 1.0000001, level=0.9, power=0.7, disagreement=0.2) == rows


def test_power_at_the_detectable_gain_is_what_was_asked_for():
    rows, gain = 200, smallest_detectable_gain(200, level=0.95, power=0.8).gain
    draws = np.random.default_rng(3).choice([1.0, -1.0, 0.0], p=[(0.3 + gain) / 2, (0.3 - gain) / 2, 0.7], size=(4000, rows))
    t = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / np.sqrt(rows))
    assert (t > norm.ppf(0.95)).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("rows", [1, 16, 100])
def test_best_lower_bound_is_wilsons_for_a_faultless_model(rows: int):
    interval = binomtest(rows, rows).proportion_ci(0.90, method="wilson")
    assert best_lower_bound(rows, level=0.95) == pytest.approx(interval.low)


def test_a_target_of_85_percent_needs_16_faultless_rows():
    assert rows_for_target(0.85, level=0.95) == 16
    assert best_lower_bound(16, level=0.95) >= 0.85 > best_lower_bound(15, level=0.95)


def test_more_gain_than_disagreement_is_taken_as_disagreement():
    assert rows_to_detect(0.9, level=0.95, power=0.8, disagreement=0.1) >= 1
