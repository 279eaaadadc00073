"""Keeps one endpoint running: `python -m fine_tune_pipeline.programs.supervise --request request.json`.

It starts the server, starts it again when it ended by itself, and gives up, visibly, when that happens too often or can't help. It is the
head of its own session, so it survives whoever started it; the server watches it and ends with it.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fine_tune_pipeline.programs.process_identity import own_identity
from fine_tune_pipeline.programs.reporting import PARENT_VARIABLE, Reporter, parse
from fine_tune_pipeline.programs.requests import ServeRequest
from fine_tune_pipeline.programs.serving.contract import PID_FILE, REQUEST_FILE, SUPERVISOR_FILE, USAGE_EXIT, SupervisorState

POLL_SECONDS = 0.2


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
        self._seen.write(self._state / SUPERVISOR_FILE)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stop_since = time.monotonic()
        if self._server is not None:
            self._server.terminate()


def main() -> None:
    """Supervise the server that the request describes."""
    request = parse(ServeRequest)
    state = Path(request.state)
    own_identity().write(state / PID_FILE)
    command = [sys.executable, "-m", ServeRequest.module, "--request", str(state / REQUEST_FILE)]
    sys.exit(Supervisor(command, state=state).run())


if __name__ == "__main__":
    main()
