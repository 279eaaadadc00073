import threading
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.exit_codes import STALLED
from fine_tune_pipeline.programs.training.stall import SLOWER, StallWatch
from fine_tune_pipeline_tests.programs.training.killing import started


def test_a_program_that_hangs_says_where_and_ends(tmp_path: Path):
    process = started(hang_in_a_wait, str(tmp_path / "stacks.txt"))
    process.join(60)
    assert process.exitcode == STALLED
    assert "in hang_in_a_wait" in (tmp_path / "stacks.txt").read_text(encoding="utf-8")


def hang_in_a_wait(stacks: str) -> None:
    with StallWatch(seconds=0.2, stacks=Path(stacks)):
        threading.Event().wait()


def test_one_that_gets_on_is_left_alone(tmp_path: Path):
    ended = threading.Event()
    with StallWatch(seconds=0.5, stacks=tmp_path / "stacks.txt", end=ended.set) as stall:
        for _ in range(20):
            stall.beat()
            assert not ended.wait(0.05)
    assert not (tmp_path / "stacks.txt").exists()


def test_a_slow_machine_gets_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("fine_tune_pipeline.programs.training.stall.time.monotonic", lambda: now)
    stall = StallWatch(seconds=10, stacks=tmp_path / "stacks.txt")
    stall.beat()
    assert stall.limit == 10
    now = 107.0
    stall.beat()
    assert stall.limit == SLOWER * 7.0
