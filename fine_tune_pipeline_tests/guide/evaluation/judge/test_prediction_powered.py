"""The corrected win rate, beside its formula written out and by simulation."""

import numpy as np
import pytest
from scipy.stats import t

from fine_tune_pipeline.guide.evaluation.judge.prediction_powered import corrected


def world(draw: np.random.Generator, *, rows: int, rated: int, bias: float, noise: float, truth: float = 0.6):
    """People's points of all rows, and those of a judge that is wrong in a share of them, mostly in favour of one side."""
    people = draw.choice([0.0, 0.5, 1.0], size=rows, p=[0.9 - truth, 0.2, truth - 0.1])
    judge = np.where(draw.random(rows) < noise, draw.choice([0.0, 0.5, 1.0], size=rows), people)
    judge = np.where(draw.random(rows) < bias, 1.0, judge)
    return people, judge, list(zip(people[:rated], judge[:rated], strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_its_formula(seed: int):
    draw = np.random.default_rng(seed)
    _, judge, rated = world(draw, rows=200, rated=60, bias=0.3, noise=0.3)
    found = corrected(list(judge), rated=rated, level=0.975)
    apart = np.array([people - own for people, own in rated])
    mean = judge.mean() + apart.mean()
    error = np.sqrt(judge.var(ddof=1) / 200 + apart.var(ddof=1) / 60)
    assert found.estimate == pytest.approx(mean)
    assert found.lower == pytest.approx(mean - t.ppf(0.975, 59) * error)
    assert found.upper == pytest.approx(mean + t.ppf(0.975, 59) * error)


@pytest.mark.parametrize(("bias", "noise"), [(0.0, 0.2), (0.4, 0.2), (0.9, 0.0)])
def test_the_interval_holds_what_people_would_say_however_biased_the_judge_is(bias: float, noise: float):
    draw, held, alone, runs = np.random.default_rng(0), 0, 0, 600
    for _ in range(runs):
        _, judge, rated = world(draw, rows=200, rated=50, bias=bias, noise=noise)
        found = corrected(list(judge), rated=rated, level=0.975)
        held += found.lower <= 0.6 <= found.upper
        alone += abs(judge.mean() - 0.6) < 1.96 * judge.std(ddof=1) / np.sqrt(200)
    assert held >= 0.935 * runs
    if bias >= 0.4:
        assert alone < 0.1 * runs


def test_a_good_judge_makes_the_interval_narrower_than_people_alone():
    draw, narrower = np.random.default_rng(1), 0
    for _ in range(50):
        people, judge, rated = world(draw, rows=400, rated=50, bias=0.0, noise=0.1)
        found = corrected(list(judge), rated=rated, level=0.975)
        narrower += (found.upper - found.lower) / 2 < t.ppf(0.975, 49) * people[:50].std(ddof=1) / np.sqrt(50)
    assert narrower == 50


def test_full_agreement_on_few_rows_is_no_certainty():
    found = corrected([1.0] * 100, rated=[(1.0, 1.0)] * 50, level=0.95)
    assert (found.estimate, found.upper) == (1.0, 1.0)
    assert found.lower == pytest.approx(1 - t.ppf(0.95, 49) / 50)
