import random
from itertools import combinations

import pytest

from fine_tune_pipeline.guide.evaluation.holm import holm


def stepwise(p_values: list[float], level: float) -> set[int]:
    """Holm's procedure as it is told: from the smallest on, until one is not below its share of the level."""
    rejected: set[int] = set()
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        if p_values[place] > level / (len(p_values) - step):
            break
        rejected.add(place)
    return rejected


def test_the_textbook_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_adjusted_values_reject_what_the_procedure_rejects():
    draw = random.Random(0)
    for _ in range(200):
        p_values = [draw.random() ** 4 for _ in range(draw.randint(1, 12))]
        adjusted = holm(p_values)
        for level in (0.01, 0.0437, 0.2):
            assert {place for place, one in enumerate(adjusted) if one <= level} == stepwise(p_values, level)


def test_it_is_the_closed_test_of_bonferroni():
    """A hypothesis falls when Bonferroni rejects every set of hypotheses that holds it: all sets are looked at."""
    draw = random.Random(0)
    for _ in range(40):
        found = [draw.random() ** 3 for _ in range(draw.randint(1, 6))]
        places = range(len(found))
        sets = [chosen for size in range(1, len(found) + 1) for chosen in combinations(places, size)]
        closed = [max(min(1.0, len(one) * min(found[place] for place in one)) for one in sets if place in one) for place in places]
        assert holm(found) == pytest.approx(closed)


def test_equal_values_stay_equal_none_is_above_one_and_no_test_needs_no_adjustment():
    assert holm([0.4, 0.4, 0.9]) == [1.0, 1.0, 1.0]
    assert holm([0.01, 0.01]) == [0.02, 0.02]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_of_families_without_any_effect_at_most_one_in_twenty_has_a_hit():
    draw = random.Random(1)
    hits = sum(min(holm([draw.random() for _ in range(8)])) < 0.05 for _ in range(4000))
    assert hits / 4000 < 0.06
