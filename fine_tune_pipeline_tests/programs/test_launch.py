import signal

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from fine_tune_pipeline.programs.exit_codes import MATE_LOST, PREEMPTED
from fine_tune_pipeline.programs.launch import first_of


def failed(rank: int, code: int, *, at: int) -> ProcessFailure:
    found = ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="")
    found.timestamp = at
    return found


@pytest.mark.parametrize("code", [MATE_LOST, -signal.SIGTERM, PREEMPTED])
def test_the_process_that_others_followed_is_named_whatever_its_place(code: int):
    """The launcher tells the others to end as soon as it sees the first one dead: they may do so in the same second."""
    follower, killed = failed(0, code, at=7), failed(1, -9, at=7)
    assert first_of([follower, killed]) is killed
    assert first_of([killed, follower]) is killed
    assert first_of([follower]) is follower


def test_a_process_that_was_told_to_stop_first_is_named_before_those_killed_for_lingering():
    preempted, lingering = failed(0, PREEMPTED, at=7), failed(1, -9, at=37)
    assert first_of([lingering, preempted]) is preempted


def test_of_several_that_failed_by_themselves_the_first_in_time_is_named():
    late, early = failed(0, 1, at=8), failed(1, 76, at=7)
    assert first_of([late, early]) is early
