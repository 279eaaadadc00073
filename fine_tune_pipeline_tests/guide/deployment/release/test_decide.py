"""What becomes of a release, by the numbers alone."""

import pytest

from fine_tune_pipeline.guide.deployment.release.decide import decide
from fine_tune_pipeline.spec.release import CanarySpec, WatchSpec
from fine_tune_pipeline_tests.guide.deployment.release.log_rows import arm
from fine_tune_pipeline_tests.guide.deployment.release.release_world import a_release

MINUTE = 60.0


def test_a_canary_waits_until_there_are_enough_answers_and_is_then_promoted():
    release = a_release()
    waiting = decide(release, new=arm(49), old=arm(400), now=release.since + 5 * MINUTE)
    assert (waiting.does, waiting.reason) == ("wait", "canary: 49 of 50 requests, 5 of 60 minutes")
    done = decide(release, new=arm(50), old=arm(400), now=release.since + 5 * MINUTE)
    assert (done.does, done.reason) == ("promote", "not seen to be worse than version 1 in 50 of 50 requests, 5 of 60 minutes")


def test_nothing_but_errors_is_seen_at_the_first_look():
    release = a_release()
    found = decide(release, new=arm(4, bad=4, status=500), old=arm(36), now=release.since + MINUTE)
    assert found.does == "roll_back"
    assert "errors: 4 of 4 against 0 of 36" in found.reason


@pytest.mark.parametrize(
    ("trouble", "named"),
    [({"status": 504}, "errors"), ({"valid": False}, "invalid_answers"), ({"latency_ms": 2500.0}, "slow_answers")],
)
def test_each_kind_of_trouble_takes_a_version_back_and_is_named(trouble: dict[str, object], named: str):
    release = a_release()
    found = decide(release, new=arm(50, bad=20, **trouble), old=arm(450, bad=10, **trouble), now=release.since + MINUTE)
    assert found.does == "roll_back"
    assert f"{named}: 20 of 50 against 10 of 450" in found.reason
    assert named in {row["signal"] for row in found.rows()}


def test_trouble_that_both_have_takes_nothing_back():
    release = a_release()
    found = decide(release, new=arm(50, bad=20, status=500), old=arm(450, bad=180, status=500), now=release.since + MINUTE)
    assert found.does == "promote"


def test_an_early_look_is_taken_once():
    # Of 8 requests 4 failed: enough for the second look, and not for the last one's test if more good ones follow.
    release = a_release(looks=2)
    found = decide(release, new=arm(9, bad=9, status=500), old=arm(90), now=release.since + MINUTE)
    assert (found.does, found.looks) == ("wait", 2)


@pytest.mark.parametrize(("rule", "does"), [("promote", "promote"), ("wait", "wait"), ("roll_back", "roll_back")])
def test_too_few_answers_when_the_time_is_over_end_by_the_rule_of_the_use_case(rule: str, does: str):
    release = a_release(canary=CanarySpec.model_validate({"too_few": rule}))
    found = decide(release, new=arm(3), old=arm(30), now=release.since + 61 * MINUTE)
    assert found.does == does
    assert "3 of 50 requests, 61 of 60 minutes" in found.reason
    assert {"promote": "a small difference would not show", "wait": "waits for 50", "roll_back": "too few"}[rule] in found.reason


def test_without_any_answer_the_rule_decides_too():
    release = a_release()
    assert decide(release, new=[], old=[], now=release.since + 61 * MINUTE).does == "promote"
    assert decide(release, new=[], old=[], now=release.since + 59 * MINUTE).does == "wait"


def test_few_answers_that_are_bad_enough_take_a_version_back_when_the_time_is_over():
    release = a_release(looks=4, canary=CanarySpec(too_few="promote"))
    found = decide(release, new=arm(5, bad=5, valid=False), old=arm(50), now=release.since + 61 * MINUTE)
    assert found.does == "roll_back"


def test_a_watch_ends_with_the_version_kept_or_taken_back():
    release = a_release(state="watch", watch=WatchSpec(answers=40, minutes=30))
    assert decide(release, new=arm(39), old=arm(300), now=release.since + MINUTE).does == "wait"
    assert decide(release, new=arm(40), old=arm(300), now=release.since + MINUTE).does == "keep"
    assert decide(release, new=arm(2), old=arm(300), now=release.since + 31 * MINUTE).does == "keep"
    assert decide(release, new=arm(40, bad=10, valid=False), old=arm(300), now=release.since + MINUTE).does == "roll_back"
