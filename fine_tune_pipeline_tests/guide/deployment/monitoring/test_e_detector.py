"""The detector of worse answers: its values by hand, its false alarms, and how soon it sees a fall."""

import numpy as np
import pytest

from fine_tune_pipeline.guide.deployment.monitoring.e_detector import HORIZON, WORSE, detect


def by_hand(good: list[bool], expected: float) -> list[float]:
    """Each bet's likelihood ratio, multiplied up from 1 or what it was, whichever is larger."""
    now, seen = [1.0 for _ in WORSE], []
    for label in good:
        for place, part in enumerate(WORSE):
            ratio = part if label else (1 - part * expected) / (1 - expected)
            now[place] = max(now[place], 1.0) * ratio
        seen.append(sum(now) / len(now))
    return seen


def test_its_values_are_those_by_hand():
    good = list(np.random.default_rng(4).random(120) < 0.7)
    found = detect(good, expected=0.8)
    assert found.values == pytest.approx(by_hand(good, 0.8))
    assert (found.labels, found.share) == (120, pytest.approx(sum(good) / 120))


def test_false_alarms_over_all_looks_are_as_few_as_promised():
    draw = np.random.default_rng(99)
    alarms = sum(detect(list(draw.random(HORIZON) < 0.8), expected=0.8).p <= 0.05 for _ in range(200))
    # 5 % of 200 are 10; three standard deviations above are 19.
    assert 1 <= alarms <= 19


def test_a_fall_is_seen_soon_and_where_it_began():
    draw = np.random.default_rng(5)
    fallen = detect([*(draw.random(600) < 0.8), *(draw.random(150) < 0.5)], expected=0.8)
    assert fallen.p <= 0.01
    assert 560 <= fallen.since <= 660
    assert fallen.recent == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("expected", [0.8, 0.999, 0.05])
def test_what_is_as_good_as_expected_or_better_stays_quiet(expected: float):
    draw = np.random.default_rng(6)
    assert detect(list(draw.random(300) < min(1.0, expected + 0.02)), expected=expected).p > 0.05


def test_a_few_bad_labels_alone_are_no_alarm():
    assert detect([False, False], expected=0.8).p > 0.05
    assert detect([True] * 50, expected=0.8).p > 0.5
