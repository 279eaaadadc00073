"""An endpoint in a container of its own, without Dagster: it is told by files of the state folder, and asked over the network.

Whoever attends it there (`fine-tune-pipeline attend`) starts, restarts and stops it as an endpoint of that container.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from fine_tune_pipeline.programs.process_identity import ProcessIdentity
from fine_tune_pipeline.programs.requests import ServeRequest
from fine_tune_pipeline.programs.serving.attending import ATTENDANT_LOCK, ATTENDED_FILE, WANTED_FILE, WANTED_LOCK, Attended, Wanted
from fine_tune_pipeline.programs.serving.contract import Health, readable
from fine_tune_pipeline.resources.endpoint import NEVER_RAN, POLL_SECONDS, Endpoint, EndpointFailed, NotRunning
from fine_tune_pipeline.resources.endpoint_client import EndpointClient, Unreachable


def endpoint_at(folder: Path, *, use_case: str, url: str = "", ready_seconds: float = Endpoint.ready_seconds) -> Endpoint:
    """The endpoint of a use case: of this machine, or attended elsewhere if there is a URL for it.

    Args:
        url: `{use_case}` in it stands for the use case's name, `{name}` for the same with hyphens, as names of hosts have them.
    """
    if not url:
        return Endpoint(use_case=use_case, folder=folder, ready_seconds=ready_seconds)
    place = url.format(use_case=use_case, name=use_case.replace("_", "-"))
    return AttendedEndpoint(use_case=use_case, folder=folder, url=place.rstrip("/"), ready_seconds=ready_seconds)


@dataclass(frozen=True)
class AttendedEndpoint(Endpoint):
    """The endpoint of one use case, where `url` is; `folder` is shared with whoever attends it."""

    url: str = ""

    def ensure(self, request: ServeRequest, *, base_sha256: str) -> Literal["started", "adopted", "restarted"]:
        """Have it running as `request` says, by whoever attends it.

        Raises:
            EndpointFailed: it did not come up, nobody attends it, or it cannot be reached from here.
        """
        done = self._wish(Wanted(id=uuid4().hex, runs=True, request=request, base_sha256=base_sha256))
        if done.action not in ("started", "adopted", "restarted"):
            raise EndpointFailed(f"{self.use_case}: {done.problem or done.action}")
        if self._until(lambda: self._health(None)) is None:
            raise EndpointFailed(f"{self.use_case}: runs where it is attended, and {self.url} does not answer from here")
        return done.action

    def resume(self) -> Literal["started", "adopted"]:
        """Have it running as it ran last.

        Raises:
            NotRunning: it never ran, so nobody knows how.
            EndpointFailed: it did not come up.
        """
        last = self._last_wish()
        if last is None:
            raise NotRunning(f"{self.use_case}: {NEVER_RAN}")
        action = self.ensure(last.request, base_sha256=last.base_sha256)
        return "adopted" if action == "adopted" else "started"

    def stop(self) -> bool:
        """End it; whoever attends it goes on attending. Says whether there was one."""
        last = self._last_wish()
        if last is None or not self._is_attended():
            return False
        return self._wish(last.model_copy(update={"id": uuid4().hex, "runs": False})).action == "stopped"

    def processes(self) -> list[int]:
        """None of this machine."""
        return []

    def _wish(self, wanted: Wanted) -> Attended:
        """Say what is wanted, and wait until it is done; one at a time."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.folder / WANTED_LOCK):
            if not self._is_attended():
                raise EndpointFailed(
                    f"{self.use_case}: nobody attends {self.folder}; run `fine-tune-pipeline attend {self.use_case}` where it is to run, "
                    "with this folder"
                )
            wanted.write(self.folder / WANTED_FILE)
            # Stopping the one before, starting, and giving up may all be part of it.
            deadline = time.monotonic() + self.ready_seconds + 2 * self.stop_seconds
            while (done := self._done()) is None or done.id != wanted.id:
                if time.monotonic() > deadline or not self._is_attended():
                    raise EndpointFailed(f"{self.use_case}: whoever attends {self.folder} did not answer; look at its output")
                time.sleep(POLL_SECONDS)
            return done

    def _is_attended(self) -> bool:
        with (self.folder / ATTENDANT_LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def _last_wish(self) -> Wanted | None:
        return readable(Wanted, self.folder / WANTED_FILE)

    def _done(self) -> Attended | None:
        return readable(Attended, self.folder / ATTENDED_FILE)

    def _url(self) -> str:
        return self.url

    def _why_stopped(self) -> str | None:
        """Pids of the other container say nothing here."""
        return None if self._last_wish() is not None else NEVER_RAN

    def _supervisor(self) -> ProcessIdentity | None:
        """Of the other container, while its server answers: its pid says nothing here."""
        health = self._health(None)
        return None if health is None else ProcessIdentity(pid=health.supervisor_pid, boot_id="elsewhere", started="")

    def _health(self, supervisor: ProcessIdentity | None) -> Health | None:
        try:
            health = EndpointClient(url=self.url, key="").health()
        except Unreachable:
            return None
        return health if health.use_case == self.use_case else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
