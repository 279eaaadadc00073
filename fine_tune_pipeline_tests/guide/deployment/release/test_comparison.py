"""Whether a version is worse: exact tests against scipy, what counts as trouble, and how often a good version is taken back."""

import random
from collections.abc import Sequence

import pytest
from scipy.stats import fisher_exact

from fine_tune_pipeline.artifacts.traffic import Feedback, Logged
from fine_tune_pipeline.guide.deployment.release.comparison import (
    ALPHA,
    NOTICED_MS,
    Signal,
    counted,
    due_looks,
    fisher_greater,
    level_of,
    signals,
    slow_ms,
)
from fine_tune_pipeline.guide.deployment.release.decide import decide
from fine_tune_pipeline_tests.guide.deployment.release.log_rows import arm, logged
from fine_tune_pipeline_tests.guide.deployment.release.release_world import a_release


def by_name(new: Sequence[Logged], old: Sequence[Logged], *, limit_ms: float | None = None) -> dict[str, Signal]:
    return {signal.name: signal for signal in signals(new, old, limit_ms=limit_ms)}


def test_fishers_test_is_scipys():
    draw = random.Random(1)
    for _ in range(200):
        rows, before = draw.randint(1, 60), draw.randint(1, 400)
        bad, bad_before = draw.randint(0, rows), draw.randint(0, before)
        wanted = fisher_exact([[bad, rows - bad], [bad_before, before - bad_before]], alternative="greater").pvalue
        assert fisher_greater(bad, rows, bad_before, before) == pytest.approx(wanted, abs=1e-9)


def test_what_a_client_did_wrong_says_nothing_of_a_version():
    rows = [logged(status=status) for status in (200, 400, 413, 429, 499, 500, 502, 503, 504)]
    assert [row.request.status for row in counted(rows)] == [200, 500, 502, 503, 504]


def test_each_kind_of_trouble_is_counted_among_those_that_can_have_it():
    new = [
        logged(status=500, valid=None),
        logged(valid=False),
        logged(valid=None),
        logged(latency_ms=900.0),
        logged(status=429, valid=None),
    ]
    found = by_name(new, arm(30))
    assert {name: (signal.new_bad, signal.new, signal.old) for name, signal in found.items()} == {
        "errors": (1, 4, 30),
        "invalid_answers": (1, 2, 30),
        "slow_answers": (1, 3, 30),
    }


@pytest.mark.parametrize(
    ("said", "bad"),
    [
        ([Feedback("r0", thumb="up")], 0),
        ([Feedback("r0", thumb="down")], 1),
        ([Feedback("r0", thumb="up", source="a"), Feedback("r0", thumb="down", source="b")], 1),
        ([Feedback("r0", corrected="no")], 1),
        ([Feedback("r0", corrected="yes")], 0),
    ],
)
def test_the_last_word_on_an_answer_counts_and_a_correction_that_changes_nothing_is_praise(said: list[Feedback], bad: int):
    old = [logged(number, feedback=[Feedback(f"r{number}", thumb="up")]) for number in range(5)]
    found = by_name([logged(feedback=said)], old)["bad_feedback"]
    assert (found.new_bad, found.new, found.old) == (bad, 1, 5)


def test_without_anything_to_compare_there_is_no_signal():
    assert signals([], arm(20), limit_ms=None) == []
    assert by_name(arm(10), arm(10)).keys() == {"errors", "invalid_answers"}


def test_slow_is_what_the_objective_says_or_far_above_what_was_usual():
    assert slow_ms(arm(20, bad=20, latency_ms=5.0), limit_ms=700.0) == 700.0
    assert slow_ms(arm(19), limit_ms=None) is None
    assert slow_ms(arm(100), limit_ms=None) == NOTICED_MS
    times = [logged(number, latency_ms=10.0 * number) for number in range(1, 101)]
    assert slow_ms(times, limit_ms=None) == 1.5 * 950


def test_levels_of_all_looks_together_are_no_more_than_five_percent():
    assert sum(level_of(look) for look in range(1, 10_000)) + level_of(None) <= ALPHA + 1e-12
    assert [due_looks(requests, most=50) for requests in (3, 4, 7, 8, 31, 32, 49, 50, 900)] == [0, 1, 1, 2, 3, 4, 4, 4, 4]


def rolled_back(draw: random.Random, *, bad_new: float, bad_old: float, errors: float = 0.02) -> bool:
    """Whether a canary ends so when it is looked at after every answer: nine requests of the champion to one of its own."""
    release, new, old = a_release(), [], []
    for number in range(500):
        mine = number % 10 == 0
        bad = bad_new if mine else bad_old
        row = logged(
            number, valid=draw.random() >= bad, latency_ms=draw.lognormvariate(6, 0.4), status=500 if draw.random() < errors else 200
        )
        (new if mine else old).append(row)
        if mine:
            found = decide(release, new=new, old=old, now=release.since + number)
            if found.does != "wait":
                return found.does == "roll_back"
            release = release.model_copy(update={"looks": found.looks})
    raise AssertionError("fifty answers end it")


def test_a_version_that_is_as_good_is_taken_back_in_at_most_five_percent_however_often_one_looks():
    draw = random.Random(11)
    back = sum(rolled_back(draw, bad_new=0.1, bad_old=0.1) for _ in range(100))
    assert back / 100 <= 0.05


def test_a_version_that_is_much_worse_is_found():
    draw = random.Random(12)
    back = sum(rolled_back(draw, bad_new=0.4, bad_old=0.05) for _ in range(20))
    assert back / 20 >= 0.9
