"""The supervisor: starts again, with a growing pause, and gives up where that does not help."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.serving.contract import SupervisorState
from fine_tune_pipeline.programs.supervise import Patience, Supervisor

SHORT = Patience(starts=3, window_seconds=60, first_wait_seconds=0.01, longest_wait_seconds=0.02, stop_seconds=1.0)


@pytest.fixture(autouse=True)
def own_signal_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def supervised(folder: Path, program: str, patience: Patience = SHORT) -> tuple[int, SupervisorState, int]:
    """Exit code, what it wrote, and how often the program ran."""
    runs = folder / "runs"
    source = f"open({str(runs)!r}, 'a').write('x')\n{program}"
    status = Supervisor([sys.executable, "-c", source], state=folder, patience=patience).run()
    return status, SupervisorState.read(folder / "supervisor.json"), len(runs.read_text(encoding="utf-8"))


def test_a_server_that_keeps_failing_is_given_up_visibly(tmp_path: Path):
    status, state, runs = supervised(tmp_path, "raise SystemExit(7)")
    assert (status, runs, state.last_exit, state.restarts) == (1, 3, 7, 2)
    assert state.gave_up is not None
    assert "3 times within 60 seconds, last with exit code 7" in state.gave_up


def test_a_server_that_cannot_start_as_asked_is_not_started_again(tmp_path: Path):
    status, state, runs = supervised(tmp_path, "raise SystemExit(2)")
    assert (status, runs, state.restarts) == (1, 1, 0)
    assert state.gave_up is not None


def test_rare_failures_are_never_too_many(tmp_path: Path):
    patience = Patience(starts=2, window_seconds=0.0, first_wait_seconds=0.01, longest_wait_seconds=0.01)
    stop_after_four = f"import os, signal\nif len(open({str(tmp_path / 'runs')!r}).read()) == 4: os.kill(os.getppid(), signal.SIGTERM)"
    status, state, runs = supervised(tmp_path, stop_after_four, patience)
    assert (status, state.gave_up) == (0, None)
    assert runs >= 4


def test_a_server_that_ignores_the_end_is_killed(tmp_path: Path):
    deaf = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.kill(os.getppid(), signal.SIGTERM)\nsignal.pause()"
    status, _, runs = supervised(tmp_path, deaf)
    assert (status, runs) == (0, 1)
