"""Keeps one endpoint running: `python -m fine_tune_pipeline.programs.supervise --request request.json`.

It starts the server, starts it again when it ended by itself, and gives up, visibly, when that happens too often or can't help. It is the
head of its own session, so it survives whoever started it; the server watches it and ends with it.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fine_tune_pipeline.programs.process_identity import own_identity
from fine_tune_pipeline.programs.reporting import PARENT_VARIABLE, Reporter, parse
from fine_tune_pipeline.programs.requests import ServeRequest
from fine_tune_pipeline.programs.serving.contract import (
    PID_FILE,
    REQUEST_FILE,
    SUPERVISOR_FILE,
    SUPERVISOR_LOCK,
    USAGE_EXIT,
    SupervisorState,
)

POLL_SECONDS = 0.2


class RunsAlready(Exception):
    """Another supervisor has this folder."""


@dataclass(frozen=True)
class Patience:
    """How often and how fast a server is started again.

    One that ends `starts` times within `window_seconds` has a fault that starting it again does not mend. `stop_seconds` pass between
    SIGTERM and SIGKILL: the longest batch, and the log's last rows.
    """

    starts: int = 5
    window_seconds: float = 300.0
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 30.0
    stop_seconds: float = 45.0


DEFAULT_PATIENCE = Patience()


class Supervisor:
    """Starts the server as often as is sensible."""

    def __init__(self, command: list[str], *, state: Path, patience: Patience = DEFAULT_PATIENCE) -> None:
        self._command = command
        self._state = state
        self._patience = patience
        self._server: subprocess.Popen[bytes] | None = None
        self._stop_since: float | None = None
        self._starts: deque[float] = deque(maxlen=patience.starts)
        self._seen = SupervisorState()

    def run(self) -> int:
        """Until it is stopped (0) or gives up (1)."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        self._tell()
        while True:
            self._starts.append(time.monotonic())
            status = self._serve_once()
            if self._stopping:
                return 0
            reason = self._reason_to_give_up(status)
            self._seen = SupervisorState(restarts=self._seen.restarts + (reason is None), last_exit=status, gave_up=reason)
            self._tell()
            if reason is not None:
                Reporter(None).log(f"supervisor: {reason}")
                return 1
            self._pause()

    @property
    def _stopping(self) -> bool:
        return self._stop_since is not None

    def _serve_once(self) -> int:
        if self._stopping:
            return 0
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        self._server = subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL)
        if self._stopping:
            # The signal came while the process was being made.
            self._server.terminate()
        while True:
            try:
                return self._server.wait(timeout=POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if self._stop_since is not None and time.monotonic() - self._stop_since > self._patience.stop_seconds:
                    self._server.kill()

    def _reason_to_give_up(self, status: int) -> str | None:
        if status == USAGE_EXIT:
            return "the server can't start as it was asked to; its last line says why"
        starts, window = self._patience.starts, self._patience.window_seconds
        if len(self._starts) == starts and time.monotonic() - self._starts[0] < window:
            return f"the server ended {starts} times within {window:g} seconds, last with exit code {status}"
        return None

    def _pause(self) -> None:
        """A growing wait before the next start; a signal ends it."""
        seconds = min(self._patience.longest_wait_seconds, self._patience.first_wait_seconds * 2 ** (len(self._starts) - 1))
        Reporter(None).log(f"supervisor: starting the server again in {seconds:g} s")
        deadline = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < deadline:
            time.sleep(min(POLL_SECONDS, seconds))

    def _tell(self) -> None:
        try:
            self._seen.write(self._state / SUPERVISOR_FILE)
        except OSError as error:
            # The disk is full. It is for people only; the server must be started again all the same.
            Reporter(None).log(f"supervisor: {SUPERVISOR_FILE} cannot be written: {error}")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # Whoever asks again does not prolong the time.
        self._stop_since = self._stop_since or time.monotonic()
        if self._server is not None:
            self._server.terminate()


@contextmanager
def claimed(state: Path) -> Iterator[None]:
    """The folder is this process's, and says so, until the end of the block or of the process: two servers would write into one log.

    Raises:
        RunsAlready: names the process that has it.
    """
    with (state / SUPERVISOR_LOCK).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise RunsAlready(
                f"{state}: an endpoint runs here already, kept by {lock.read() or 'another process'}; stop it first"
            ) from error
        lock.truncate(0)
        lock.write(own_identity().model_dump_json())
        lock.flush()
        own_identity().write(state / PID_FILE)
        try:
            yield
        finally:
            (state / PID_FILE).unlink(missing_ok=True)
            lock.truncate(0)


def main() -> None:
    """Supervise the server that the request describes."""
    request = parse(ServeRequest)
    state = Path(request.state)
    command = [sys.executable, "-m", ServeRequest.module, "--request", str(state / REQUEST_FILE)]
    try:
        with claimed(state):
            status = Supervisor(command, state=state).run()
    except RunsAlready as error:
        Reporter(None).log(f"supervisor: {error}")
        status = USAGE_EXIT
    sys.exit(status)


if __name__ == "__main__":
    main()
