"""Attends one endpoint in a container of its own: it does what whoever deploys wishes, and ends the endpoint when it is told to end.

`fine-tune-pipeline attend USE_CASE` is the container's command. What is wished stands in the endpoint's folder, which both share, so a
container that is started anew goes on as it was.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fine_tune_pipeline.command import ENVIRONMENT
from fine_tune_pipeline.foreground import signals_interrupt
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.serving.attending import ATTENDANT_LOCK, ATTENDED_FILE, WANTED_FILE, Attended, Wanted
from fine_tune_pipeline.programs.serving.contract import readable
from fine_tune_pipeline.resources.endpoint import Endpoint, EndpointFailed

POLL_SECONDS = 0.5


class AttendedAlready(Exception):
    """Somebody else attends this endpoint."""


class Attendant:
    """Does one wish after the other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._done = ""

    def run(self) -> int:
        """Until a signal ends it (0), or the endpoint has given up (3), so that the container is started anew."""
        try:
            with signals_interrupt():
                while self._goes_on():
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            return 0
        finally:
            self._endpoint.stop()
        return ENVIRONMENT

    def _goes_on(self) -> bool:
        wanted = readable(Wanted, self._endpoint.folder / WANTED_FILE)
        if wanted is None:
            # Nobody has wished anything yet, or not in a way that this version understands.
            return True
        if wanted.id != self._done:
            self._fulfilled(wanted).write(self._endpoint.folder / ATTENDED_FILE)
            self._done = wanted.id
            return True
        return not wanted.runs or self._endpoint.supervisor_pid() is not None

    def _fulfilled(self, wanted: Wanted) -> Attended:
        if not wanted.runs:
            self._endpoint.stop()
            return Attended(id=wanted.id, action="stopped")
        try:
            return Attended(id=wanted.id, action=self._endpoint.ensure(wanted.request, base_sha256=wanted.base_sha256))
        except EndpointFailed as error:
            Reporter(None).log(str(error))
            return Attended(id=wanted.id, action="failed", problem=str(error))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else attends this folder meanwhile.

    Raises:
        AttendedAlready: somebody does.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ATTENDANT_LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AttendedAlready(f"{folder}: somebody attends it already; end that one first") from error
        yield
