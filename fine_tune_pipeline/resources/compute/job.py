"""One run of one program, as a place sees it: what to start, what to bring there, and how it ended."""

import hashlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import dagster as dg

from fine_tune_pipeline.programs.exit_codes import MATE_LOST, PREEMPTED, STALLED
from fine_tune_pipeline.programs.requests import Access, Placement, Request

TAIL_LINES = 50
"""Lines of the program's output that a failure shows."""


@dataclass(frozen=True)
class Job:
    """A program to be run.

    `folder` holds what starter and program tell each other, and lies in the request's output. `environment` is plain; of `handed_on`,
    which may be secrets, only the names are here: each place hands the values on by its own means. `reads` and `writes` lie on storage
    that the place shares with us, or are brought there and back.
    """

    request: Request
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    handed_on: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        """As people call it: `train`."""
        return self.request.module.rsplit(".", 1)[-1]

    @property
    def name(self) -> str:
        """The same for each try of the same work, and a DNS label: a place finds by it a job that an earlier try has left."""
        digest = hashlib.sha256(self.request.identity().encode("utf-8")).hexdigest()[:16]
        return f"{self.program.replace('_', '-')}-{digest}"

    @property
    def on_device(self) -> bool:
        """Whether it computes on an accelerator; many programs only need a CPU, wherever they run."""
        placement = getattr(self.request, "placement", None)
        return (placement.device if isinstance(placement, Placement) else getattr(self.request, "device", "cpu")) != "cpu"

    @property
    def at_once(self) -> int:
        """How many tasks of it run at the same time, each with what a program is given; such a program itself computes little."""
        return int(getattr(self.request, "at_once", 1))

    @property
    def request_file(self) -> Path:
        return self.folder / "request.json"

    @property
    def reads(self) -> tuple[Path, ...]:
        return tuple(self.request.paths(Access.READS))

    @property
    def writes(self) -> tuple[Path, ...]:
        return tuple(self.request.paths(Access.WRITES))


class Cause(StrEnum):
    """Why a program is no longer running."""

    DONE = "done"
    ERROR = "error"
    OUT_OF_MEMORY = "out of memory"
    TIMEOUT = "timeout"
    LOST = "lost"
    PREEMPTED = "preempted"
    STALLED = "stalled"
    MATE_LOST = "mate lost"


@dataclass(frozen=True)
class Ended:
    """How a program ended: `status` is its exit code, negative for a signal, None where the place does not know; `tail` is the end of its
    output; `said` is the place's own word."""

    cause: Cause
    status: int | None = None
    tail: str = ""
    said: str = ""

    @property
    def explained(self) -> "Ended":
        """With the cause that the program's own exit code says."""
        own = _OWN_CODES.get(self.status or 0)
        return self if own is None or self.cause != Cause.ERROR else replace(self, cause=own)

    @classmethod
    def by(cls, status: int, tail: str) -> "Ended":
        """Of a process whose exit code is known."""
        return cls(Cause.DONE if status == 0 else Cause.ERROR, status=status, tail=tail)


def signalled(exit_code: int) -> int:
    """A shell says of a command that a signal has killed: 128 and its number; here it is the number below zero."""
    return 128 - exit_code if exit_code > 128 else exit_code


class PlaceFailure(Exception):
    """A place cannot run programs as it is configured, or cannot be reached: what was seen, and what to do."""


_OWN_CODES = {PREEMPTED: Cause.PREEMPTED, STALLED: Cause.STALLED, MATE_LOST: Cause.MATE_LOST}
"""Exit codes by which our programs say themselves why they have ended."""

RESUMABLE = {Cause.LOST, Cause.PREEMPTED, Cause.STALLED, Cause.MATE_LOST}
"""Worth trying again unchanged."""

_HINTS = {
    Cause.PREEMPTED: "It was told to stop and has written down where it was; running the asset again goes on from there.",
    Cause.STALLED: "What it was doing stands below; running the asset again goes on from its last checkpoint.",
    Cause.MATE_LOST: "Another process of the same training has died; running the asset again goes on from its last checkpoint.",
    Cause.OUT_OF_MEMORY: "It took more memory than the place gives it: lower training.max_length, choose a smaller base model, or give "
    "the place more memory.",
    Cause.LOST: "The place lost it; running the asset again goes on where it can.",
    Cause.TIMEOUT: "It ran longer than timeout_seconds of the place allows: raise it, or lower training.epochs.",
}


def failure(job: Job, ended: Ended) -> dg.Failure:
    """What a person needs to know when a program failed."""
    status = ended.status
    match ended.cause, status:
        case Cause.TIMEOUT, _:
            how = "was ended by its time limit"
        case Cause.OUT_OF_MEMORY, _:
            how = "was killed for its memory"
        case Cause.LOST, _:
            how = "was lost"
        case Cause.PREEMPTED, _:
            how = "was preempted"
        case Cause.STALLED, _:
            how = "made no progress any more"
        case Cause.MATE_LOST, _:
            how = "ended with one of its processes"
        case _, int() if status < 0:
            how = f"killed by signal {signal.Signals(-status).name}"
        case _:
            how = f"ended with exit code {status}"
    hint = _HINTS.get(ended.cause, "")
    if status == -signal.SIGKILL and ended.cause == Cause.ERROR:
        hint = "SIGKILL that nobody sent is usually the system out of memory: lower training.max_length, or choose a smaller base model."
    said = " ".join(part for part in (ended.said, hint) if part)
    return dg.Failure(
        description=f"program {job.program} {how}.{' ' if said else ''}{said} Last lines of its output:\n{ended.tail}",
        metadata={"exit_code": -1 if status is None else status, "cause": str(ended.cause)},
        allow_retries=ended.cause in RESUMABLE,
    )
