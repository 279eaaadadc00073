import numpy as np
import pytest
from scipy.optimize import curve_fit

from fine_tune_pipeline.guide.evaluation.analysis.power_law import fitted

SIZES = np.array([120.0, 250.0, 500.0, 1000.0])


def law(rows, top, gap, exponent):
    return top - gap * (np.asarray(rows) / 1000) ** -exponent


def test_an_exact_curve_is_found_again():
    found = fitted(SIZES, law(SIZES, 0.9, 0.1, 0.5)[None, :], ceiling=1.0)
    assert (found.top[0], found.gap[0], found.exponent[0]) == pytest.approx((0.9, 0.1, 0.5))
    assert found.at(2000)[0] == pytest.approx(0.9 - 0.1 * 2**-0.5)


@pytest.mark.parametrize("seed", range(6))
def test_it_fits_as_well_as_curve_fit_and_forecasts_the_same(seed: int):
    draw = np.random.default_rng(seed)
    scores = law(SIZES, 0.92, 0.08, 0.6) + draw.normal(0, 0.004, size=4)
    found = fitted(SIZES, scores[None, :], ceiling=1.0)
    theirs, _ = curve_fit(law, SIZES, scores, p0=(0.9, 0.1, 0.5), bounds=([0, 0, 0.05], [1.0, 10, 2.0]), maxfev=20_000)
    ours = np.array([found.at(rows)[0] for rows in SIZES])
    assert ((ours - scores) ** 2).sum() == pytest.approx(((law(SIZES, *theirs) - scores) ** 2).sum(), abs=1e-6)
    assert found.at(2000)[0] == pytest.approx(law(2000, *theirs), abs=2e-3)


def test_a_curve_never_falls_and_never_passes_the_ceiling():
    falling, steep = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.2, 0.5, 0.8, 1.0])
    found = fitted(SIZES, np.array([falling, steep]), ceiling=1.0)
    assert found.gap[0] == 0
    assert found.at(2000)[0] == pytest.approx(0.75)
    assert found.at(1e9)[1] <= 1.0


def test_three_sizes_leave_the_exponent_at_a_half():
    found = fitted(SIZES[1:], law(SIZES[1:], 0.9, 0.1, 0.5)[None, :], ceiling=1.0)
    assert (found.top[0], found.exponent[0]) == pytest.approx((0.9, 0.5))
