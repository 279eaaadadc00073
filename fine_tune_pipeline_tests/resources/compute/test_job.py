from pathlib import Path

import pytest

from fine_tune_pipeline.programs.exit_codes import MATE_LOST, PREEMPTED, STALLED
from fine_tune_pipeline.resources.compute.job import RESUMABLE, Cause, Ended, Job, failure
from fine_tune_pipeline_tests.resources.compute.odd_program import OddRequest


@pytest.mark.parametrize(
    ("code", "cause", "how"),
    [
        (PREEMPTED, Cause.PREEMPTED, "was preempted. It was told to stop"),
        (STALLED, Cause.STALLED, "made no progress any more. What it was doing stands below"),
        (MATE_LOST, Cause.MATE_LOST, "ended with one of its processes. Another process of the same training has died"),
    ],
)
def test_what_an_exit_code_says_is_a_cause_that_is_tried_again(code: int, cause: Cause, how: str, tmp_path: Path):
    ended = Ended.by(code, "the last line").explained
    assert ended.cause == cause
    assert cause in RESUMABLE
    told = failure(Job(request=OddRequest(output=str(tmp_path), do="answer"), folder=tmp_path), ended)
    assert told.allow_retries
    assert told.description is not None
    assert told.description.startswith(f"program odd_program {how}")


def test_an_error_of_the_programs_own_is_not_tried_again(tmp_path: Path):
    ended = Ended.by(1, "the last line").explained
    assert ended.cause == Cause.ERROR
    assert not failure(Job(request=OddRequest(output=str(tmp_path), do="answer"), folder=tmp_path), ended).allow_retries
