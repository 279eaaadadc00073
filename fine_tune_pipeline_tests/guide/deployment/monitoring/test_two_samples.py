"""The tests of drift against references that share no code with them: enumeration by hand, and permutations of other seeds."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from fine_tune_pipeline.guide.deployment.monitoring.two_samples import (
    Counted,
    less_sure,
    more_often,
    other_mean,
    other_shares,
    otherwise_spread,
)


def fisher_by_enumeration(production: Counted, held_back: Counted) -> float:
    """Share of all ways to mark as many rows as hits that give production at least so many of them."""
    hits, rows = production.hits + held_back.hits, production.rows + held_back.rows
    ways = [comb(production.rows, k) * comb(held_back.rows, hits - k) for k in range(production.hits, min(hits, production.rows) + 1)]
    return sum(ways) / comb(rows, hits)


@pytest.mark.parametrize(
    ("production", "held_back"),
    [((9, 40), (2, 40)), ((0, 20), (3, 30)), ((20, 20), (0, 30)), ((3, 60), (3, 60)), ((0, 9), (0, 9))],
)
def test_more_often_is_fishers_exact_test(production: tuple[int, int], held_back: tuple[int, int]):
    now, before = Counted(*production), Counted(*held_back)
    outcome = more_often(now, before)
    assert outcome.p == pytest.approx(fisher_by_enumeration(now, before), rel=1e-9)
    assert outcome.effect == pytest.approx(production[0] / production[1] - held_back[0] / held_back[1])


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


def test_the_spread_of_lengths_is_compared_by_the_largest_distance_of_the_distribution_functions():
    draw = np.random.default_rng(1)
    production, held_back = draw.integers(0, 60, 90), draw.integers(0, 40, 150)
    outcome = otherwise_spread(list(production), list(held_back))
    distances = [abs(float((production <= x).mean() - (held_back <= x).mean())) for x in range(61)]
    assert outcome.effect == pytest.approx(max(distances))
    pooled = np.concatenate([production, held_back])

    def statistic(order: np.ndarray) -> float:
        mine, theirs = pooled[order[:90]], pooled[order[90:]]
        return max(abs(float((mine <= x).mean() - (theirs <= x).mean())) for x in range(0, 61, 2))

    by_permutation = np.mean([statistic(draw.permutation(240)) >= statistic(np.arange(240)) for _ in range(500)])
    assert outcome.p < 0.02
    assert by_permutation < 0.02


def test_the_mean_embedding_is_a_permutation_test():
    draw = np.random.default_rng(2)
    production, held_back = draw.normal(0.18, 1, (40, 5)).astype(np.float32), draw.normal(0, 1, (60, 5)).astype(np.float32)
    pooled = np.concatenate([production, held_back])

    def distance(order: np.ndarray) -> float:
        return float(np.linalg.norm(pooled[order[:40]].mean(axis=0) - pooled[order[40:]].mean(axis=0)))

    seen = distance(np.arange(100))
    by_permutation = np.mean([distance(draw.permutation(100)) >= seen for _ in range(4000)])
    outcome = other_mean(production, held_back, seed=0)
    assert outcome.effect == pytest.approx(seen, rel=1e-5)
    assert outcome.p == pytest.approx(by_permutation, abs=0.05)
    assert other_mean(pooled, pooled, seed=0).p == 1.0


def test_class_shares_are_a_permutation_test_of_chi_squared():
    draw = np.random.default_rng(3)
    production, held_back = list(draw.choice(list("aaaabbc"), 40)), list(draw.choice(list("aabbc"), 70))
    names = np.array([*production, *held_back])

    def chi_squared(order: np.ndarray) -> float:
        mine = names[order[:40]]
        wanted = {name: 40 * float((names == name).mean()) for name in "abc"}
        return sum((float((mine == name).sum()) - many) ** 2 / many for name, many in wanted.items())

    seen = chi_squared(np.arange(110))
    by_permutation = np.mean([chi_squared(draw.permutation(110)) >= seen - 1e-9 for _ in range(4000)])
    outcome = other_shares(production, held_back, seed=0)
    assert outcome.p == pytest.approx(by_permutation, abs=0.06)
    assert outcome.effect == pytest.approx(sum(abs(production.count(name) / 40 - held_back.count(name) / 70) for name in "abc") / 2)


def test_classes_that_were_never_answered_before_are_other_shares():
    outcome = other_shares(["new"] * 30 + ["old"] * 30, ["old"] * 60, seed=0)
    assert (outcome.p, outcome.effect) == (0.002, 0.5)
