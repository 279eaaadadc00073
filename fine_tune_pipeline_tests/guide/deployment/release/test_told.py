"""How a release reads in the web UI: which check says what, and what stops a run."""

import pytest

from fine_tune_pipeline.artifacts.manifest import Check
from fine_tune_pipeline.guide.deployment.release.decide import decide
from fine_tune_pipeline.guide.deployment.release.steps import Step
from fine_tune_pipeline.guide.deployment.release.told import facts, release_checks
from fine_tune_pipeline_tests.guide.deployment.release.log_rows import arm
from fine_tune_pipeline_tests.guide.deployment.release.release_world import a_release


def told(step: Step | None, *, approval: bool = False, problem: str | None = None) -> dict[str, Check]:
    return {check.name: check for check in release_checks(step, approval=approval, problem=problem)}


def test_a_canary_that_runs_passes_and_says_so():
    found = told(Step("canary", "canary begins: bank-v2 gets 10%", 2, a_release()))
    assert found.keys() == {"canary", "watch"}
    assert (found["canary"].passed, found["canary"].blocking, found["canary"].description) == (
        True,
        True,
        "canary begins: bank-v2 gets 10%",
    )
    assert (found["watch"].passed, found["watch"].description) == (True, "nothing is watched")


def test_a_promoted_version_says_what_it_is_held_against():
    found = told(Step("promote", "bank-v2 is champion: all checks have passed", 2, a_release(state="watch")))
    assert found["canary"].passed
    assert (
        found["watch"].description == "bank-v2 is held against version 1 for 200 requests or 1440 minutes, and rolled back when it is worse"
    )


@pytest.mark.parametrize(("champion_before", "failing"), [(False, "canary"), (True, "watch")])
def test_a_version_that_was_taken_back_fails_where_it_was_found_with_the_numbers(champion_before: bool, failing: str):
    release = a_release()
    decision = decide(release, new=arm(8, bad=8, status=500), old=arm(80), now=release.since + 1)
    step = Step("roll_back", decision.reason, 2, a_release(state="rolled_back"), decision, champion=1, everybody_had=champion_before)
    found = told(step)
    assert {name for name, check in found.items() if not check.passed} == {failing}
    assert "errors: 8 of 8 against 0 of 80" in found[failing].description
    assert found[failing].metadata["signals"][0]["new version"] == "8 of 8"
    assert (found["canary"].blocking, found["watch"].blocking) == (True, False)
    assert facts(step)["signals"] == decision.rows()


def test_a_version_that_waits_for_a_person_warns_and_stops_nothing():
    found = told(Step("approval", "bank-v2 waits for a person", 2, a_release(state="approval")), approval=True)
    assert {name for name, check in found.items() if not check.passed} == {"approval"}
    assert not found["approval"].blocking
    assert told(Step("promote", "promoted", 2, a_release(state="kept")), approval=True)["approval"].passed


@pytest.mark.parametrize("problem", [None, "the server did not come up"])
def test_a_version_that_has_not_passed_is_not_released_and_the_check_says_why(problem: str | None):
    found = told(None, approval=True, problem=problem)
    why = problem or "the version has not passed the checks before"
    assert (found["canary"].passed, found["canary"].description) == (False, f"not released: {why}")
    assert (found["approval"].passed, found["approval"].blocking) == (False, False)


def test_a_version_that_was_rolled_back_before_is_refused():
    found = told(Step("refused", "version 2 was rolled back by ann: rude", 2))
    assert (found["canary"].passed, found["watch"].passed) == (False, True)
    assert "by ann: rude" in found["canary"].description
