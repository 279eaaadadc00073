"""The tests of drift against references that share no code with them: enumeration by hand, and the closure of Bonferroni tests."""

from itertools import chain, combinations
from math import comb

import numpy as np
import pytest

from fine_tune_pipeline.guide.deployment.drift_tests import FarShares, far_shares, holm, less_sure, more_far, nearest


def shares(production_far: int, production: int, held_back_far: int, held_back: int) -> FarShares:
    return FarShares(0.5, production_far, production, held_back_far, held_back)


def fisher_by_enumeration(found: FarShares) -> float:
    """Share of all ways to mark as many texts as far that give production at least so many of them."""
    far, rows = found.production_far + found.held_back_far, found.production + found.held_back
    ways = [comb(found.production, k) * comb(found.held_back, far - k) for k in range(found.production_far, min(far, found.production) + 1)]
    return sum(ways) / comb(rows, far)


@pytest.mark.parametrize(
    "found", [shares(9, 40, 2, 40), shares(0, 20, 3, 30), shares(20, 20, 0, 30), shares(3, 60, 3, 60), shares(0, 9, 0, 9)]
)
def test_far_share_is_fishers_exact_test(found: FarShares):
    outcome = more_far(found)
    assert outcome.p == pytest.approx(fisher_by_enumeration(found), rel=1e-9)
    assert outcome.effect == pytest.approx(found.production_far / found.production - found.held_back_far / found.held_back)


def ranks_by_enumeration(production: list[float], held_back: list[float]) -> float:
    """Share of all ways to deal the values into two groups in which the production group's wins are at most those seen."""

    def wins(group: tuple[float, ...], others: list[float]) -> float:
        return sum((mine > theirs) + 0.5 * (mine == theirs) for mine in group for theirs in others)

    values = production + held_back
    seen = wins(tuple(production), held_back)
    deals = list(combinations(range(len(values)), len(production)))
    low = 0
    for deal in deals:
        others = [value for place, value in enumerate(values) if place not in deal]
        low += wins(tuple(values[place] for place in deal), others) <= seen
    return low / len(deals)


@pytest.mark.parametrize(
    ("production", "held_back"),
    [
        ([-3.0, -2.5, -1.1, -0.4], [-0.3, -0.2, -0.1, -1.0, -0.05]),
        ([-0.1, -0.2, -0.3], [-3.0, -2.0, -1.0]),
        ([-1.0, -4.0], [-2.0, -3.0, -0.5]),
    ],
)
def test_confidence_is_the_exact_rank_test_for_small_samples(production: list[float], held_back: list[float]):
    outcome = less_sure(production, held_back)
    assert outcome.p == pytest.approx(ranks_by_enumeration(production, held_back), rel=1e-9)
    losses = sum(mine < theirs for mine in production for theirs in held_back)
    assert outcome.effect == pytest.approx(losses / (len(production) * len(held_back)) - 0.5)


def test_confidence_of_large_samples_with_ties_agrees_with_permutation():
    draw = np.random.default_rng(0)
    production = np.round(draw.normal(-0.62, 0.3, 80), 1)
    held_back = np.round(draw.normal(-0.5, 0.3, 120), 1)
    values = np.concatenate([production, held_back])
    midranks = (values[:, None] > values[None, :]).sum(axis=1) + 0.5 * (values[:, None] == values[None, :]).sum(axis=1)
    seen = midranks[:80].sum()
    by_permutation = np.mean([draw.permutation(midranks)[:80].sum() <= seen for _ in range(20_000)])
    assert less_sure(list(production), list(held_back)).p == pytest.approx(by_permutation, abs=0.005)


def holm_by_closure(p_values: dict[str, float]) -> dict[str, float]:
    """A hypothesis falls when every set that holds it falls by Bonferroni: the largest of those p-values."""
    names = list(p_values)
    sets = list(chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1)))
    return {name: max(min(1.0, len(group) * min(p_values[other] for other in group)) for group in sets if name in group) for name in names}


@pytest.mark.parametrize("p_values", [[0.01], [0.04, 0.03], [0.001, 0.02, 0.9], [0.2, 0.2, 0.2], [0.6, 0.001, 0.04, 0.011]])
def test_holm_equals_the_closure_of_bonferroni_tests(p_values: list[float]):
    named = {str(place): p for place, p in enumerate(p_values)}
    assert holm(named) == pytest.approx(holm_by_closure(named))
    assert list(holm(named)) == list(named)


def test_the_nearest_reference_counts():
    reference = np.eye(3, dtype=np.float32)
    texts = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]], dtype=np.float32)
    assert nearest(texts, reference) == pytest.approx([1.0, 0.8])


def test_far_texts_are_those_below_the_held_back_quantile():
    held_back = np.linspace(0.0, 1.0, 101)
    found = far_shares(np.array([0.01, 0.02, 0.5, 0.9]), held_back)
    assert (found.production_far, found.production, found.held_back_far, found.held_back) == (2, 4, 5, 101)
    assert found.threshold == pytest.approx(0.05)


def test_the_false_alarm_rate_of_the_family_is_kept():
    draw = np.random.default_rng(1)
    alarms = 0
    for _ in range(400):
        near = draw.normal(0.8, 0.1, 600)
        sure = draw.normal(-0.3, 0.1, 600)
        p_values = {
            "far": more_far(far_shares(near[:200], near[200:])).p,
            "sure": less_sure(list(sure[:200]), list(sure[200:])).p,
        }
        alarms += min(holm(p_values).values()) <= 0.05
    # 5 % of 400 are 20; five standard deviations above are 42.
    assert alarms <= 42
