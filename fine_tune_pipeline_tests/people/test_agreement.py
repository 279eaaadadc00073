"""Agreement beyond chance, beside published figures, other people's implementations and the definition written out."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from fine_tune_pipeline.people.agreement import Floats, alpha_of, alphas, interval, kappas, nominal

PUBLISHED = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
"""Four people, twelve units, five values, some missing (Krippendorff 2011, sections C and D)."""


def units(people: tuple[str, ...]) -> list[list[int]]:
    """Of each unit, the numbers of the values that people gave."""
    return [[int(value) - 1 for value in unit if value != "."] for unit in zip(*(person.split() for person in people), strict=True)]


@pytest.mark.parametrize(("distances", "published"), [(nominal(5), 0.743), (interval(range(1, 6)), 0.849)])
def test_alpha_is_the_published_one(distances: Floats, published: float):
    found = alpha_of(units(PUBLISHED), distances=distances, seed=0)
    assert found is not None
    assert found.value == pytest.approx(published, abs=0.0005)
    assert found.lower < found.value < found.upper


def test_alpha_of_two_people_is_the_published_one():
    """Two people, ten units, two values: 0.095 (section A)."""
    found = alpha_of(units(("1 2 1 1 1 1 1 1 2 1", "2 2 2 1 1 2 1 1 1 1")), distances=nominal(2), seed=0)
    assert found is not None
    assert found.value == pytest.approx(0.095, abs=0.0005)


def by_definition(answers: list[list[int]], distances: Floats) -> float:
    """1 - (mean distance within units) / (mean distance between any two answers), pair by pair."""
    judged = [unit for unit in answers if len(unit) > 1]
    pairs = [(distances[a, b], 1 / (len(unit) - 1)) for unit in judged for a, b in permutations(unit, 2)]
    everything = [answer for unit in judged for answer in unit]
    seen = sum(distance * weight for distance, weight in pairs) / len(everything)
    chance = np.mean([distances[a, b] for a, b in permutations(everything, 2)])
    return float(1 - seen / chance)


@pytest.mark.parametrize("seed", range(20))
def test_alpha_is_its_definition_written_out(seed: int):
    draw = np.random.default_rng(seed)
    answers = [list(draw.integers(0, 4, size=draw.integers(0, 5))) for _ in range(15)]
    for distances in (nominal(4), interval([0, 0.5, 0.7, 1])):
        found = alpha_of(answers, distances=distances, seed=0)
        assert found is not None
        assert found.value == pytest.approx(by_definition(answers, distances))


def test_a_unit_that_counts_twice_is_a_unit_twice():
    counts = np.array([[2.0, 0], [1, 1], [0, 3]])
    weighted = alphas(counts, np.array([[1.0, 2, 1]]), distances=nominal(2))
    assert weighted[0] == pytest.approx(alphas(counts[[0, 1, 1, 2]], np.ones((1, 4)), distances=nominal(2))[0])


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed: int):
    draw = np.random.default_rng(seed)
    first = draw.integers(0, 3, 40)
    second = np.where(draw.random(40) < 0.6, first, draw.integers(0, 3, 40))
    found = kappas(np.eye(3)[first], np.eye(3)[second], np.ones((1, 40)))
    assert found[0] == pytest.approx(cohen_kappa_score(first, second))


def test_what_cannot_be_known_is_none():
    assert alpha_of([[0], [1]], distances=nominal(2), seed=0) is None
    assert alpha_of([[0, 0], [0, 0]], distances=nominal(2), seed=0) is None
