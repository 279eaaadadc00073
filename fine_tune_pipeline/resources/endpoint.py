"""One endpoint of this machine, without Dagster: started, adopted, updated, stopped, asked how it is.

The endpoint is a supervisor in a session of its own with the server as its child. It outlives the run that started it; whoever comes
later finds it by `pid.json`, which names the process by more than its pid, so that no stranger is ever adopted or killed; where that file
is lost, by the lock that the supervisor holds.
"""

import contextlib
import fcntl
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.programs.process_identity import ProcessIdentity
from fine_tune_pipeline.programs.reporting import PARENT_VARIABLE
from fine_tune_pipeline.programs.requests import ServeRequest
from fine_tune_pipeline.programs.serving.contract import (
    ADMIN_KEY_FILE,
    ADMIN_KEY_VARIABLE,
    KEY_FILE,
    KEY_VARIABLE,
    LOCK_FILE,
    LOG_FILE,
    PID_FILE,
    REQUEST_FILE,
    SERVER_FILE,
    SUPERVISOR_FILE,
    SUPERVISOR_LOCK,
    VERSIONS_FILE,
    Health,
    ServerAddress,
    SupervisorState,
    Table,
    readable,
)
from fine_tune_pipeline.resources.endpoint_client import EndpointClient, Unreachable
from fine_tune_pipeline.resources.program_environment import PROGRAM_ENVIRONMENT

POLL_SECONDS = 0.1
TAIL_LINES = 30
LARGEST_LOG_BYTES = 20 << 20
SUPERVISOR = "fine_tune_pipeline.programs.supervise"

_NOT_INHERITED = (PARENT_VARIABLE, "DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES")
"""Variables of the run that starts the endpoint: it is no program of that run."""


State = Literal["running", "starting", "failed", "stopped"]


NEVER_RAN = "no endpoint has run yet; materialize its asset `endpoint` first"


class EndpointFailed(Exception):
    """The endpoint did not come up; the message holds the last lines of its log."""


class NotRunning(Exception):
    """There is no endpoint to speak to."""


@dataclass(frozen=True)
class EndpointStatus:
    """How an endpoint is, for people. `key` says where the API key is, never what it is."""

    use_case: str
    state: State
    problem: str | None
    url: str | None
    supervisor_pid: int | None
    health: Health | None
    table: Table | None
    restarts: int
    key: str
    log: Path

    @property
    def champion(self) -> str | None:
        """Model name of the version that answers."""
        found = None if self.table is None else self.table.champion
        return None if found is None else found.name


@dataclass(frozen=True)
class Endpoint:
    """The endpoint of one use case; its state lies in a folder of its own."""

    use_case: str
    folder: Path
    python: str = sys.executable
    ready_seconds: float = 300.0
    stop_seconds: float = 60.0

    @property
    def traffic_log(self) -> TrafficLog:
        """Where it was told to keep what it is asked and answers."""
        if not (self.folder / REQUEST_FILE).exists():
            return TrafficLog.at(self.folder)
        request = self._request()
        return TrafficLog.of(request.traffic, use_case=request.use_case, folder=self.folder)

    def ensure(self, request: ServeRequest, *, base_sha256: str) -> Literal["started", "adopted", "restarted"]:
        """Have the server running as `request` says: adopt one that does, else start it, ending one that runs otherwise.

        Args:
            base_sha256: of the weights that `request.model` holds.

        Raises:
            EndpointFailed: it did not come up; nothing of it is left running.
        """
        with self._exclusive():
            running = self._supervisor()
            if running is not None and self._answers_in_time(running) and self._fits(running, request, base_sha256):
                # The next start, should the server crash, reads the weights where they lie now.
                request.write(self.folder / REQUEST_FILE)
                return "adopted"
            if running is not None:
                self._end(running)
            self._begin(request)
            return "started" if running is None else "restarted"

    def resume(self) -> Literal["started", "adopted"]:
        """Have it running as it ran last, with the versions that it served then.

        Raises:
            NotRunning: it never ran, so nobody knows how.
            EndpointFailed: it did not come up; nothing of it is left running.
        """
        if not (self.folder / REQUEST_FILE).exists():
            raise NotRunning(f"{self.use_case}: {NEVER_RAN}")
        with self._exclusive():
            running = self._supervisor()
            if running is not None and self._answers_in_time(running):
                return "adopted"
            if running is not None:
                self._end(running)
            self._begin(self._request())
            return "started"

    def stop(self) -> bool:
        """End the endpoint: what runs is answered, the log is written. Says whether there was one."""
        if not self.folder.exists():
            return False
        with self._exclusive():
            running = self._supervisor()
            if running is not None:
                self._end(running)
            return running is not None

    def has_to_restart(self, request: ServeRequest, *, base_sha256: str) -> bool:
        """Whether an endpoint runs that can't load the versions of this request beside its own."""
        running = self._supervisor()
        return running is not None and not self._fits(running, request, base_sha256)

    def status(self) -> EndpointStatus:
        """How it is, without changing anything."""
        supervisor = self._supervisor()
        health = self._health(supervisor) if supervisor is not None else None
        told = self._told()
        state, problem = _state(supervisor, health, told)
        if state == "stopped":
            problem = self._why_stopped()
        return EndpointStatus(
            use_case=self.use_case,
            state=state,
            problem=problem,
            url=None if health is None else self._url(),
            supervisor_pid=None if supervisor is None else supervisor.pid,
            health=health,
            table=health.table if health is not None else readable(Table, self.folder / VERSIONS_FILE),
            restarts=told.restarts,
            key=f"environment variable {KEY_VARIABLE}" if os.environ.get(KEY_VARIABLE) else str(self.folder / KEY_FILE),
            log=self.folder / LOG_FILE,
        )

    def supervisor_pid(self) -> int | None:
        """Head of the endpoint's processes; None when nothing runs."""
        supervisor = self._supervisor()
        return None if supervisor is None else supervisor.pid

    def processes(self) -> list[int]:
        """Pids of supervisor and server; empty when nothing runs."""
        supervisor = self._supervisor()
        if supervisor is None:
            return []
        address = self._address()
        server = [] if address is None or not address.server.alive else [address.server.pid]
        return [supervisor.pid, *server]

    def client(self) -> EndpointClient:
        """Speaks to the running server.

        Raises:
            NotRunning: start it first.
        """
        if self._supervisor() is None or not self._url():
            raise NotRunning(f"{self.use_case}: no endpoint runs; start it with `fine-tune-pipeline serve {self.use_case}`")
        key, admin_key = self._keys()
        return EndpointClient(url=self._url(), key=key, admin_key=admin_key)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Only one at a time starts or stops this endpoint; others wait for it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _begin(self, request: ServeRequest) -> None:
        started = self._start(request)
        if not self._answers_in_time(started):
            self._give_up(started)

    def _start(self, request: ServeRequest) -> ProcessIdentity:
        self._wait_for_leftover_server()
        for name in (PID_FILE, SUPERVISOR_FILE):
            (self.folder / name).unlink(missing_ok=True)
        request.write(self.folder / REQUEST_FILE)
        key, admin_key = self._keys()
        variables = PROGRAM_ENVIRONMENT | {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        variables |= {KEY_VARIABLE: key, ADMIN_KEY_VARIABLE: admin_key}
        command = [self.python, "-m", SUPERVISOR, "--request", str(self.folder / REQUEST_FILE)]
        log = str(self._fresh_log())
        # Not subprocess: this process is not its child to wait for.
        pid = os.posix_spawn(
            self.python,
            command,
            variables,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
        found = self._until(lambda: self._supervisor() or _collected(pid))
        if not isinstance(found, ProcessIdentity):
            raise EndpointFailed(f"{self.use_case}: the supervisor did not start. {self._tail()}")
        return found

    def _answers_in_time(self, supervisor: ProcessIdentity) -> bool:
        """Wait until the server of this supervisor answers; it listens only once the model has made an answer."""
        self._until(lambda: not supervisor.alive or self._health(supervisor))
        return supervisor.alive and self._health(supervisor) is not None

    def _give_up(self, supervisor: ProcessIdentity) -> None:
        reason = f"no answer within {self.ready_seconds:g} seconds" if supervisor.alive else self._told().gave_up or "the supervisor ended"
        self._end(supervisor)
        raise EndpointFailed(f"{self.use_case}: {reason}. {self._tail()}")

    def _fits(self, supervisor: ProcessIdentity, request: ServeRequest, base_sha256: str) -> bool:
        """Whether the running server is what the request wants. Where the same weights lie does not matter; versions bring own limits."""
        health, now = self._health(supervisor), readable(ServeRequest, self.folder / REQUEST_FILE)
        if health is None or now is None:
            return False
        alike = now.model_copy(update={"model": request.model, "max_new_tokens": request.max_new_tokens})
        return health.table.base_sha256 == base_sha256 and alike == request

    def _health(self, supervisor: ProcessIdentity) -> Health | None:
        """What the server under this supervisor says; None when it does not answer, or another server stands at its old address."""
        if not (url := self._url()):
            return None
        try:
            health = EndpointClient(url=url, key="").health()
        except Unreachable:
            return None
        return health if health.supervisor_pid == supervisor.pid and health.use_case == self.use_case else None

    def _end(self, supervisor: ProcessIdentity) -> None:
        """SIGTERM, and SIGKILL to its whole session when that does not help in time."""
        if supervisor.alive:
            os.kill(supervisor.pid, signal.SIGTERM)
        self._until(lambda: not supervisor.alive, seconds=self.stop_seconds)
        if supervisor.alive:
            os.killpg(supervisor.pid, signal.SIGKILL)
            self._until(lambda: not supervisor.alive, seconds=self.stop_seconds)
        _collected(supervisor.pid)
        self._wait_for_leftover_server()
        (self.folder / PID_FILE).unlink(missing_ok=True)

    def _wait_for_leftover_server(self) -> None:
        """A server whose supervisor was killed ends by itself within a second; one that does not is killed."""
        if (address := self._address()) is None:
            return
        server = address.server
        self._until(lambda: not server.alive, seconds=5.0)
        if server.alive:
            os.kill(server.pid, signal.SIGKILL)
            self._until(lambda: not server.alive, seconds=5.0)

    def _until(self, condition: Callable[[], object], *, seconds: float | None = None) -> object:
        """The first true value of the condition, or its last value when time is up."""
        deadline = time.monotonic() + (self.ready_seconds if seconds is None else seconds)
        while not (found := condition()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return found

    def _supervisor(self) -> ProcessIdentity | None:
        recorded = (readable(ProcessIdentity, self.folder / name) for name in (PID_FILE, SUPERVISOR_LOCK))
        return next((found for found in recorded if found is not None and found.alive), None)

    def _why_stopped(self) -> str | None:
        """None where somebody stopped it."""
        if not (self.folder / REQUEST_FILE).exists():
            return NEVER_RAN
        if not (self.folder / PID_FILE).exists():
            return None
        return (
            f"it ended without a word, as after kill -9 or a restart of the machine; `fine-tune-pipeline serve {self.use_case}` starts it"
        )

    def _request(self) -> ServeRequest:
        """
        Raises:
            EndpointFailed: the file was damaged, or another version of this software wrote it.
        """
        path = self.folder / REQUEST_FILE
        found = readable(ServeRequest, path)
        if found is None:
            raise EndpointFailed(
                f"{path}: not a request as this software writes it; materialize the asset `endpoint` again, which makes it anew"
            )
        return found

    def _address(self) -> ServerAddress | None:
        return readable(ServerAddress, self.folder / SERVER_FILE)

    def _url(self) -> str:
        """Empty while nobody knows where it listens."""
        address = self._address()
        return "" if address is None else address.url

    def _told(self) -> SupervisorState:
        return readable(SupervisorState, self.folder / SUPERVISOR_FILE) or SupervisorState()

    def _keys(self) -> tuple[str, str]:
        """Key and admin key: from the environment, else from files that are made once and only the owner can read."""
        return _key(KEY_VARIABLE, self.folder / KEY_FILE), _key(ADMIN_KEY_VARIABLE, self.folder / ADMIN_KEY_FILE)

    def _fresh_log(self) -> Path:
        path = self.folder / LOG_FILE
        if path.exists() and path.stat().st_size > LARGEST_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path

    def _tail(self) -> str:
        path = self.folder / LOG_FILE
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:] if path.exists() else []
        return f"Last lines of {path}:\n" + "\n".join(lines)


def _state(supervisor: ProcessIdentity | None, health: Health | None, told: SupervisorState) -> tuple[State, str | None]:
    """How an endpoint is in a word, and what is wrong with it."""
    if supervisor is None:
        return ("failed", told.gave_up) if told.gave_up else ("stopped", None)
    if health is None:
        last = "" if told.last_exit is None else f", last exit code {told.last_exit}"
        return "starting", f"the server does not answer yet; {told.restarts} restarts{last}"
    return "failed" if health.status == "failed" else "running", "; ".join(health.problems) or None


def _key(variable: str, path: Path) -> str:
    if given := os.environ.get(variable):
        return given
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(secrets.token_urlsafe(32))
    return path.read_text(encoding="utf-8").strip()


def _collected(pid: int) -> bool:
    """Whether this process, if it is a child of ours, has ended; then it no longer stands in the process table."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False
