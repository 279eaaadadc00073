"""Holm's correction with weights, against the closure of weighted Bonferroni tests."""

from itertools import chain, combinations

import numpy as np
import pytest

from fine_tune_pipeline.guide.deployment.monitoring.holm import weighted_holm
from fine_tune_pipeline.guide.evaluation.holm import holm


def by_closure(p_values: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    """A hypothesis falls when every set that holds it falls by Bonferroni with these weights: the largest of those p-values."""
    names = list(p_values)
    sets = list(chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1)))

    def of_set(group: tuple[str, ...]) -> float:
        whole = sum(weights[name] for name in group)
        return min(1.0, min(p_values[name] * whole / weights[name] for name in group))

    return {name: max(of_set(group) for group in sets if name in group) for name in names}


def test_it_equals_the_closure_of_weighted_bonferroni_tests():
    draw = np.random.default_rng(0)
    for _ in range(40):
        names = "abcd"[: int(draw.integers(1, 5))]
        p_values = {name: float(draw.random() ** 3) for name in names}
        weights = {name: float(draw.choice([1, 3, 8])) for name in names}
        assert weighted_holm(p_values, weights) == pytest.approx(by_closure(p_values, weights))
        assert list(weighted_holm(p_values, weights)) == list(p_values)


def test_with_equal_weights_it_is_holms_own():
    p_values = [0.6, 0.001, 0.04, 0.011]
    named = {str(place): p for place, p in enumerate(p_values)}
    assert list(weighted_holm(named, dict.fromkeys(named, 2.5)).values()) == pytest.approx(holm(p_values))
