"""The supervisor: starts again, with a growing pause, and gives up where that does not help."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.process_identity import ProcessIdentity, own_identity
from fine_tune_pipeline.programs.requests import PromptFormat, ServeRequest
from fine_tune_pipeline.programs.serving.contract import PID_FILE, SUPERVISOR_LOCK, USAGE_EXIT, SupervisorState
from fine_tune_pipeline.programs.supervise import Patience, RunsAlready, Supervisor, claimed

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


def test_a_full_disk_does_not_keep_the_server_from_being_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs = tmp_path / "runs"
    command = [sys.executable, "-c", f"open({str(runs)!r}, 'a').write('x'); raise SystemExit(7)"]
    # The state cannot be written, and neither can what is said.
    supervisor = Supervisor(command, state=tmp_path / "nowhere", patience=SHORT)
    full = open("/dev/full", "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        assert supervisor.run() == 1
    with suppress(OSError):
        full.close()
    assert runs.read_text(encoding="utf-8") == "xxx"


def test_who_asks_twice_for_the_end_does_not_prolong_the_time(tmp_path: Path):
    deaf = """import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.kill(os.getppid(), signal.SIGTERM)
while True:
    time.sleep(0.3)
    os.kill(os.getppid(), signal.SIGTERM)"""
    status, _, runs = supervised(tmp_path, deaf)
    assert (status, runs) == (0, 1)


def test_a_folder_has_one_supervisor_who_says_so_and_no_longer_than_it_runs(tmp_path: Path):
    with claimed(tmp_path):
        assert ProcessIdentity.read(tmp_path / PID_FILE) == ProcessIdentity.read(tmp_path / SUPERVISOR_LOCK) == own_identity()
        with pytest.raises(RunsAlready, match=rf"runs here already.*{os.getpid()}"), claimed(tmp_path):
            pass
        assert (tmp_path / PID_FILE).exists()
    assert not (tmp_path / PID_FILE).exists()
    with claimed(tmp_path):
        assert (tmp_path / PID_FILE).exists()


def test_a_second_supervisor_ends_at_once_and_starts_no_server(tmp_path: Path):
    state = str(tmp_path)
    request = ServeRequest(output=state, state=state, use_case="bank", model="/nowhere", format=PromptFormat(), max_new_tokens=4, port=0)
    request.write(tmp_path / "request.json")
    command = [sys.executable, "-m", "fine_tune_pipeline.programs.supervise", "--request", str(tmp_path / "request.json")]
    with claimed(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ProcessIdentity.read(tmp_path / PID_FILE) == own_identity()
    assert (second.returncode, str(os.getpid()) in second.stderr) == (USAGE_EXIT, True)
    assert not (tmp_path / "supervisor.json").exists()
