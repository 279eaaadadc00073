from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from fine_tune_pipeline.programs.exit_codes import MATE_LOST
from fine_tune_pipeline.programs.launch import first_of


def failed(rank: int, code: int, *, at: int) -> ProcessFailure:
    found = ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="")
    found.timestamp = at
    return found


def test_the_process_that_others_followed_is_named_whatever_its_place():
    follower, killed = failed(0, MATE_LOST, at=7), failed(1, -9, at=7)
    assert first_of([follower, killed]) is killed
    assert first_of([killed, follower]) is killed
    assert first_of([follower]) is follower


def test_of_several_that_failed_by_themselves_the_first_in_time_is_named():
    late, early = failed(0, 1, at=8), failed(1, 76, at=7)
    assert first_of([late, early]) is early
