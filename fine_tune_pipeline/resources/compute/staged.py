"""Programs at a place that shares no storage with us: their files go there and back over a shelf behind a URL.

The place starts `programs/staged.py`, which does the other half; what lies on the shelf is told in `programs/staging.py`.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fine_tune_pipeline.programs.requests import Access
from fine_tune_pipeline.programs.staging import (
    BLOBS,
    FILES,
    LEASE,
    MESSAGES,
    OUTPUTS,
    REQUEST_MARK,
    STAGE,
    STATUS,
    Outputs,
    Root,
    Shelf,
    Stage,
    files_below,
    placed,
    staged,
)  # fmt: skip
from fine_tune_pipeline.resources.compute.exchange import FOLDER, RENEWALS, RESULT
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, PlaceFailure, signalled

LOOK_SECONDS = 2.0
"""How often messages are looked for; the program puts them there as often."""

PROGRAM = "fine_tune_pipeline.programs.staged"


@dataclass(frozen=True)
class Staged:
    """A job whose files lie on the shelf. `finished`: an earlier try has done the work, and its outputs wait there."""

    job: Job
    url: str
    shelf: Shelf
    finished: bool

    def command(self, command: Sequence[str]) -> list[str]:
        """What the place starts in the place of a command that names the request by its file here."""
        there = [part.replace(str(self.job.request_file), REQUEST_MARK) for part in command]
        return [command[0], "-m", PROGRAM, self.url, self.job.name, "--", *there]

    def status(self) -> int | None:
        """The program's exit code, negative for a signal; None when it did not come to say it."""
        said = self.shelf.read(STATUS)
        return None if said is None else signalled(int(said))

    def collected(self, ended: Ended) -> Ended:
        """The end of the program, once what it has written is here; of a resumable one that did not end well, what it had so far."""
        said = self.shelf.read(OUTPUTS)
        outputs = Outputs.model_validate_json(said) if said else Outputs(done=False, roots=())
        if ended.cause == Cause.DONE and not outputs.done:
            return Ended(Cause.LOST, 0, ended.tail, f"It left no outputs at {self.shelf.root}.")
        if outputs.done or self.job.request.resumable:
            self._fetch(outputs)
        return ended

    def _fetch(self, outputs: Outputs) -> None:
        """All of it first, so that nothing here is half of the old and half of the new; the result last."""
        waiting = self.job.folder / "fetched"
        brought: list[tuple[Path, Path]] = []
        for number, root in enumerate(outputs.roots):
            for file in root.files:
                here = placed(waiting / str(number), file.name)
                self.shelf.fetch(f"{FILES}/{file.sha256}", here, file.sha256)
                brought.append((here, placed(Path(root.path), file.name)))
            if root.folder:
                Path(root.path).mkdir(parents=True, exist_ok=True)
        for here, path in sorted(brought, key=lambda pair: pair[1].name == RESULT):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(here, path)
        shutil.rmtree(waiting, ignore_errors=True)


@contextmanager
def on_shelf(job: Job, url: str, *, lease_seconds: float) -> Iterator[Staged]:
    """The job's files brought to the shelf; messages come from there while this is open. Afterwards nothing of the job is left there.

    What programs read stays under `blobs`, by content, for the next one.

    Raises:
        PlaceFailure: the shelf cannot be written to.
    """
    try:
        shelf = Shelf.at(url)
        sub = shelf.sub(f"jobs/{job.name}")
        adopted = _brought(job, shelf, sub, lease_seconds)
    except (OSError, ValueError, ImportError) as error:
        raise PlaceFailure(f"compute.place.staging: {url} cannot be used: {type(error).__name__}: {error}") from error
    outputs = sub.read(OUTPUTS) if adopted else None
    finished = outputs is not None and Outputs.model_validate_json(outputs).done
    try:
        with _renewed(sub, lease_seconds), _told(sub, job.folder, adopted=adopted):
            yield Staged(job, url, sub, finished)
    finally:
        sub.remove()


def _brought(job: Job, shelf: Shelf, sub: Shelf, lease_seconds: float) -> bool:
    """Put what is not there yet; whether an earlier try of the same resumable work is there already, perhaps with its program running."""
    roots = list(_roots(job))
    stage = Stage(
        identity=job.request.identity(), request=job.request.model_dump(mode="json"), resumable=job.request.resumable,
        lease_seconds=lease_seconds, roots=tuple(root for root, _ in roots),
    )  # fmt: skip
    before = sub.read(STAGE)
    if before is not None and stage.resumable and _same(Stage.model_validate_json(before), stage):
        return True
    sub.remove()
    for root, path in roots:
        for file in root.files:
            shelf.bring(placed(path, file.name), f"{BLOBS}/{file.sha256}")
    sub.write(LEASE, b"new")
    sub.write(STAGE, stage.model_dump_json().encode("utf-8"))
    return False


def _same(one: Stage, other: Stage) -> bool:
    """What is read and asked is the same; what had been written may have grown since."""

    def reads(stage: Stage) -> list[Root]:
        return [root for root in stage.roots if not root.writes]

    return one.identity == other.identity and reads(one) == reads(other)


def _roots(job: Job) -> Iterator[tuple[Root, Path]]:
    """What the request names, each file once: a root inside another goes with it."""
    written = job.request.paths(Access.WRITES)
    outermost = [path for path in dict.fromkeys([*written, *job.request.paths(Access.READS)]) if path.exists() or path in written]
    for path in outermost:
        if not any(other != path and path.is_relative_to(other) for other in outermost):
            files = tuple(staged(name, file) for name, file in files_below(path, without=(FOLDER,)))
            yield Root(path=str(path), writes=path in written or _holds(path, written), folder=path.is_dir(), files=files), path


def _holds(path: Path, written: Sequence[Path]) -> bool:
    return any(other.is_relative_to(path) for other in written)


@contextmanager
def _renewed(sub: Shelf, seconds: float) -> Iterator[None]:
    number = 0

    def renew() -> None:
        nonlocal number
        number += 1
        sub.write(LEASE, f"{os.getpid()} {number}".encode())

    with _every(seconds / RENEWALS, renew, name="shelf-lease"):
        yield


@contextmanager
def _told(sub: Shelf, folder: Path, *, adopted: bool) -> Iterator[None]:
    """Messages of the program go to where those of programs on shared storage lie."""
    pulled = folder / "pulled"
    count = int(pulled.read_text(encoding="utf-8")) if adopted and pulled.exists() else 0

    def pull() -> None:
        nonlocal count
        while (piece := sub.read(f"{MESSAGES}/{count:08d}")) is not None:
            with (folder / "messages.jsonl").open("ab") as file:
                file.write(piece)
            count += 1
            pulled.write_text(json.dumps(count), encoding="utf-8")

    with _every(LOOK_SECONDS, pull, name="shelf-messages"):
        yield
    pull()


@contextmanager
def _every(seconds: float, what: Callable[[], None], *, name: str) -> Iterator[None]:
    """Do something again and again beside; what the shelf cannot take now is tried again."""
    closed = threading.Event()

    def repeat() -> None:
        while not closed.wait(seconds):
            try:
                what()
            except OSError as error:
                sys.stderr.write(f"{name}: {error}; tried again in {seconds:g} s\n")

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()
