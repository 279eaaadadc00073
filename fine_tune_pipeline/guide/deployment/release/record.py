"""What is known of the release of one version: `release.json` in the endpoint's folder, and what came before in `releases.jsonl`."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.guide.deployment.live import Live
from fine_tune_pipeline.programs.requests import Contract, ServeRequest
from fine_tune_pipeline.programs.serving.contract import OfferedVersion
from fine_tune_pipeline.spec.release import CanarySpec, WatchSpec

FILE = "release.json"
HISTORY = "releases.jsonl"
LOCK = "release.lock"

State = Literal["approval", "canary", "watch", "kept", "rolled_back"]
"""approval: waits for a person; canary: some users get it; watch: promoted, and held against the one before; kept: promoted for good;
rolled_back: nobody gets it. The history also has `superseded` (a newer version came before the end) and `allowed` (may be tried again)."""

GATES = "the checks of endpoint"


class Release(Contract):
    """One version on its way to everybody, with all that is needed to go on without the use case's YAML.

    `since` is when `state` began, in seconds since 1970, `by` who brought it there, and `reason` why; `rival` is the version that it is
    held against; `looks` counts the early looks of this state; `told` says whether the asset `endpoint` shows the state already.
    """

    live: Live
    offered: OfferedVersion
    request: ServeRequest
    state: State
    since: float
    reason: str
    by: str
    rival: int | None = None
    canary: CanarySpec | None = None
    watch: WatchSpec | None = None
    limit_ms: float | None = None
    looks: int = 0
    told: bool = False

    @property
    def version(self) -> int:
        return self.live.version

    @property
    def name(self) -> str:
        return self.live.name


@dataclass(frozen=True)
class Book:
    """The releases of one endpoint. Whoever decides holds the lock meanwhile, so that two never decide at once."""

    folder: Path

    def read(self) -> Release | None:
        """The release of the newest version; None before the first."""
        path = self.folder / FILE
        return Release.read(path) if path.exists() else None

    def write(self, release: Release) -> None:
        """Keep a release that has come into another state."""
        self.note(release.version, release.state, now=release.since, by=release.by, reason=release.reason)
        release.write(self.folder / FILE)

    def tell(self, release: Release) -> None:
        """Keep that the asset `endpoint` says how it stands, unless it stands otherwise by now."""
        with self.locked():
            if self.read() == release:
                release.model_copy(update={"told": True}).write(self.folder / FILE)

    def looked(self, release: Release, looks: int) -> None:
        """Keep how often it was looked at; an early look is taken once."""
        release.model_copy(update={"looks": looks}).write(self.folder / FILE)

    def refusal(self, version: int) -> str | None:
        """Why a version is not tried again: it was rolled back, and nobody has allowed it since."""
        own = [event for event in self.history() if event["version"] == version]
        if not own or own[-1]["state"] != "rolled_back":
            return None
        return f"rolled back {own[-1]['at']} by {own[-1]['by']}: {own[-1]['reason']}"

    def history(self) -> list[dict[str, str | int]]:
        """Every change of state of every version, oldest first: at, version, state, by, reason."""
        path = self.folder / HISTORY
        return read_rows(path) if path.exists() else []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one at a time decides; others wait for it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def note(self, version: int, state: State | Literal["superseded", "allowed"], *, now: float, by: str, reason: str) -> None:
        """Add to the history: when, which version, into which state, who, and why."""
        at = datetime.fromtimestamp(now, tz=UTC).isoformat(timespec="seconds")
        line = json.dumps({"at": at, "version": version, "state": state, "by": by, "reason": reason}, ensure_ascii=False)
        with (self.folder / HISTORY).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
