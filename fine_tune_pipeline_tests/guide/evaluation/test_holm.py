import random

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
    assert holm([]) == []
