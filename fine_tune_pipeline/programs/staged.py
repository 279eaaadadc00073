"""Runs a program whose files lie on a staging shelf: `python -m fine_tune_pipeline.programs.staged URL -- COMMAND...`.

It brings the files here, rewrites the paths of the request, starts the command, and puts on the shelf what the program tells and writes. It
ends with the program's exit code, and ends the program when nobody renews the lease any more.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dagster_pipes import DAGSTER_PIPES_MESSAGES_ENV_VAR, PipesDefaultMessageWriter, encode_param

from fine_tune_pipeline.programs.reporting import PARENT_VARIABLE
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
    StagedFile,
    files_below,
    move_file,
    moved,
    placed,
    staged,
)  # fmt: skip

LOOK_SECONDS = 0.5
"""How often the program is looked at; also how late its end is seen."""

TELL_SECONDS = 2.0
"""How often messages are put on the shelf: as often as Dagster shows live numbers."""

SNAPSHOT_SECONDS = 120.0
"""How often what a resumable program has written so far is put there, so that another machine can go on from it."""

GRACE_SECONDS = 10.0


class NoStage(SystemExit):
    """The shelf has no such job."""


@dataclass
class Teller:
    """Puts what the program tells on the shelf, in pieces of whole lines."""

    shelf: Shelf
    file: Path
    told: int = 0
    pieces: int = 0

    def tell(self) -> None:
        with self.file.open("rb") as file:
            file.seek(self.told)
            content = file.read()
        if piece := content[: content.rfind(b"\n") + 1]:
            self.shelf.write(f"{MESSAGES}/{self.pieces:08d}", piece)
            self.pieces += 1
            self.told += len(piece)


@dataclass
class Lease:
    """Whether the starter still lives: the text of the lease changes."""

    shelf: Shelf
    seconds: float
    seen: bytes | None = None
    since: float = field(default_factory=time.monotonic)
    looked: float = 0.0

    def runs(self) -> bool:
        now = time.monotonic()
        if now - self.looked > self.seconds / 8:
            self.looked = now
            # While the shelf cannot be reached, nobody has renewed it.
            with suppress(OSError):
                if (text := self.shelf.read(LEASE)) != self.seen:
                    self.seen, self.since = text, now
        return now - self.since < self.seconds


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the shelf")
    parser.add_argument("job", help="its name there")
    parser.add_argument("command", nargs="+", help=f"after --; {REQUEST_MARK} stands for the request's file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fine-tune-") as scratch:
        sys.exit(run(Shelf.at(asked.url), asked.job, asked.command, Path(scratch)))


def run(shelf: Shelf, name: str, command: Sequence[str], scratch: Path) -> int:
    """Run the program of one job in a folder of its own; gives its exit code."""
    job = shelf.sub(f"jobs/{name}")
    said = job.read(STAGE)
    if said is None:
        raise NoStage(f"{job.root}: nothing is staged there; it was removed, or this program was started too early")
    stage = Stage.model_validate_json(said)
    before = job.read(OUTPUTS)
    places = {root.path: str(scratch / str(number) / Path(root.path).name) for number, root in enumerate(stage.roots)}
    _bring(shelf, job, stage, Outputs.model_validate_json(before).roots if before else (), places)
    request, messages = scratch / "request.json", scratch / "messages.jsonl"
    request.write_text(json.dumps(moved(stage.request, places)), encoding="utf-8")
    messages.touch()
    keeper = Keeper(job, stage, places)
    try:
        status = _run(
            _started(command, request, messages), Teller(job, messages, pieces=_pieces(job)), Lease(job, stage.lease_seconds), keeper
        )
    except KeyboardInterrupt:
        # The machine is taken away: the program has written down where it was.
        if stage.resumable:
            keeper.keep(done=False, ended=True)
        raise
    if status == 0 or stage.resumable:
        keeper.keep(done=status == 0, ended=True)
    job.write(STATUS, str(status).encode())
    return status


def _bring(shelf: Shelf, job: Shelf, stage: Stage, resumed: Sequence[Root], places: dict[str, str]) -> None:
    """All files, those that an earlier machine has written in place of what the starter had there."""
    later = {root.path: root for root in resumed}
    for root in stage.roots:
        here = Path(places[root.path])
        here.parent.mkdir(parents=True, exist_ok=True)
        if root.folder:
            here.mkdir()
        for file in later.get(root.path, root).files:
            source = (job, FILES) if root.path in later else (shelf, BLOBS)
            source[0].fetch(f"{source[1]}/{file.sha256}", placed(here, file.name), file.sha256)


def _pieces(job: Shelf) -> int:
    """How many pieces an earlier machine has told."""
    number = 0
    while job.has(f"{MESSAGES}/{number:08d}"):
        number += 1
    return number


@dataclass
class Keeper:
    """Puts what the program has written on the shelf."""

    job: Shelf
    stage: Stage
    places: dict[str, str]
    seen: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def keep(self, *, done: bool, ended: bool = False) -> None:
        """Whole files only: while the program runs, those that have not changed since the last look."""
        roots = [self._kept(root, done=done, ended=ended) for root in self.stage.roots if root.writes]
        self.job.write(OUTPUTS, Outputs(done=done, roots=tuple(roots)).model_dump_json().encode("utf-8"))

    def _kept(self, root: Root, *, done: bool, ended: bool) -> Root:
        here, files = Path(self.places[root.path]), list[StagedFile]()
        for name, file in files_below(here):
            stamp = (file.stat().st_size, file.stat().st_mtime_ns)
            if (not ended and self.seen.get(file) != stamp) or (not done and name == "result.json"):
                self.seen[file] = stamp
                continue
            if name == "result.json":
                move_file(file, {there: path for path, there in self.places.items()})
            kept = staged(name, file)
            self.job.bring(file, f"{FILES}/{kept.sha256}")
            files.append(kept)
        return root.model_copy(update={"files": tuple(files), "folder": here.is_dir()})


def _started(command: Sequence[str], request: Path, messages: Path) -> "subprocess.Popen[bytes]":
    told = encode_param({PipesDefaultMessageWriter.FILE_PATH_KEY: str(messages)})
    pipes = {DAGSTER_PIPES_MESSAGES_ENV_VAR: told} if DAGSTER_PIPES_MESSAGES_ENV_VAR in os.environ else {}
    ours = {PARENT_VARIABLE: str(os.getpid()), **pipes}
    here = [part.replace(REQUEST_MARK, str(request)) for part in command]
    return subprocess.Popen(here, env={**os.environ, **ours}, stdin=subprocess.DEVNULL, start_new_session=True)


def _run(process: "subprocess.Popen[bytes]", teller: Teller, lease: Lease, keeper: Keeper) -> int:
    """Until the program ends, or must: by a signal to us, or without a lease."""
    signal.signal(signal.SIGTERM, _interrupt)
    told = kept = time.monotonic()
    try:
        while process.poll() is None:
            now = time.monotonic()
            # What cannot be put there now is put there later.
            with suppress(OSError):
                if now - told > TELL_SECONDS:
                    told = now
                    teller.tell()
                if keeper.stage.resumable and now - kept > SNAPSHOT_SECONDS:
                    kept = now
                    keeper.keep(done=False)
            if not lease.runs():
                sys.stderr.write(f"ended: nobody has renewed the lease for {lease.seconds:g} s\n")
                break
            time.sleep(LOOK_SECONDS)
    finally:
        _end_group(process)
    teller.tell()
    # As a shell says it of a command that a signal has killed.
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """SIGINT, SIGTERM, SIGKILL to all that the program has started."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
