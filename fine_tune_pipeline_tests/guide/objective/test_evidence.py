import numpy as np
import pytest
from scipy.stats import binomtest, norm

from fine_tune_pipeline.guide.evaluation.statistics import gain_bounds
from fine_tune_pipeline.guide.objective.evidence import (
    LOOKS,
    at_look,
    best_lower_bound,
    design_effect,
    look_level,
    rows_for_target,
    rows_to_detect,
    smallest_detectable_gain,
)
from fine_tune_pipeline.spec.objective import ObjectiveSpec


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
def test_best_lower_bound_is_the_exact_one_for_a_faultless_model(rows: int):
    interval = binomtest(rows, rows).proportion_ci(0.90, method="exact")
    assert best_lower_bound(rows, level=0.95) == pytest.approx(interval.low)


def test_a_target_of_85_percent_needs_19_faultless_rows():
    assert rows_for_target(0.85, level=0.95) == 19
    assert best_lower_bound(19, level=0.95) >= 0.85 > best_lower_bound(18, level=0.95)


def test_no_row_shows_nothing():
    assert best_lower_bound(0, level=0.95) == 0.0


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_all_looks_at_a_test_set_together_spend_what_one_may(level: float):
    assert sum(1 - look_level(number, level=level) for number in range(1, LOOKS + 1)) == pytest.approx(1 - level)
    assert [round(look_level(number, level=0.95), 6) for number in range(1, 6)] == [0.97, 0.995, 0.995, 0.995, 0.995]


def test_the_objective_at_a_look_asks_for_the_level_of_that_look_and_is_the_same_otherwise():
    asked = ObjectiveSpec.model_validate(
        {"goal": "Route the mail", "task": {"type": "generation"}, "success": [{"metric": "token_f1", "at_least": 0.5}]}
    )
    assert [at_look(asked, number).evidence.level for number in (1, 2, 5, 6, 99)] == [0.97, 0.995, 0.995, 0.995, 0.995]
    assert at_look(asked, 3).model_dump(exclude={"evidence": {"level"}}) == asked.model_dump(exclude={"evidence": {"level"}})


@pytest.mark.parametrize(("sizes", "wider"), [([1] * 50, 1.0), ([4] * 50, 2.5), ([10], 5.5), ([1, 3], 1.75)])
def test_design_effect_is_that_of_the_cluster_a_row_is_in_on_average(sizes: list[int], wider: float):
    assert design_effect(sizes, correlation=0.5) == pytest.approx(wider)


@pytest.mark.parametrize(("rows", "size", "level"), [(200, 1, 0.97), (500, 1, 0.995), (600, 4, 0.97)])
def test_the_gate_passes_the_detectable_gain_as_often_as_was_promised(rows: int, size: int, level: float):
    correlation = 0.5 if size > 1 else 0.0
    gain = smallest_detectable_gain(
        rows, level=level, power=0.8, design_effect=design_effect([size] * (rows // size), correlation=correlation)
    ).gain
    draw, runs = np.random.default_rng(11), 1500
    clusters = np.arange(rows) // size
    # A row does as the first of its cluster, with so much probability that any two are correlated by `correlation`.
    own = draw.random((runs, rows)) > np.sqrt(correlation)
    rank = np.where(own, draw.random((runs, rows)), np.repeat(draw.random((runs, rows // size)), size, axis=1))
    gains = np.where(rank < (0.3 + gain) / 2, 1.0, np.where(rank < 0.3, -1.0, 0.0))
    found = sum(gain_bounds(one, level=level, clusters=clusters.tolist(), binary=True).lower > 0 for one in gains)
    # 1,500 runs: a standard error of one point.
    assert found / runs == pytest.approx(0.8, abs=0.04)


def test_more_gain_than_disagreement_is_taken_as_disagreement():
    assert rows_to_detect(0.9, level=0.95, power=0.8, disagreement=0.1) >= 1
