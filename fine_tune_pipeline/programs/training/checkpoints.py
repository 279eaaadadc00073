"""Checkpoints of a training: folders that appear whole or not at all, whatever is killed and whenever.

A checkpoint is filled beside its place, hashed, flushed to the disk file by file and then renamed; the rename is the one moment at which it
begins to exist. `MANIFEST` lists the hash of every other file, so that a folder that a broken disk has changed is found out.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fine_tune_pipeline.artifacts.fingerprint import file_sha256

MANIFEST = "manifest.json"

_UNFINISHED = ".unfinished"
_LEAVING = ".leaving"


class NoRoomForCheckpoint(OSError):
    """The disk is full; the checkpoints that are there are untouched."""


class DamagedCheckpoint(ValueError):
    """A checkpoint's files are not those that were written."""


class Checkpoints:
    """The newest `keep` checkpoints of one training, in `folder`, which belongs to them alone.

    `writes`: whether it is this process that does; another one of the same training only reads, and tidies up nothing.
    """

    def __init__(self, folder: Path, *, keep: int, writes: bool = True) -> None:
        self.folder = folder
        self._keep = keep
        for left in (*folder.glob(f"*{_UNFINISHED}"), *folder.glob(f"*{_LEAVING}")) if writes else ():
            shutil.rmtree(left)

    def write(self, fill: Callable[[Path], None]) -> Path:
        """A new checkpoint with what `fill` puts into the folder that it is given; afterwards the oldest ones go.

        Raises:
            NoRoomForCheckpoint: nothing is left of the new one.
        """
        place = self.folder / f"{self._last() + 1:06d}"
        unfinished = place.with_name(place.name + _UNFINISHED)
        try:
            unfinished.mkdir(parents=True)
            fill(unfinished)
            _seal(unfinished)
            os.replace(unfinished, place)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomForCheckpoint(error.errno, f"no room for a checkpoint in {self.folder} ({error.strerror})") from error
            raise
        _flush(self.folder)
        for old in self.all()[: -self._keep]:
            self.forget(old)
        return place

    def all(self) -> list[Path]:
        """Oldest first; each was whole when it was written."""
        return sorted(path for path in self.folder.glob("*") if path.name.isdigit())

    def forget(self, checkpoint: Path) -> None:
        """Remove one; half removed it is none."""
        leaving = checkpoint.with_name(checkpoint.name + _LEAVING)
        os.replace(checkpoint, leaving)
        shutil.rmtree(leaving)

    def _last(self) -> int:
        return max((int(path.name) for path in self.all()), default=0)


def verify(checkpoint: Path) -> None:
    """Compare every file with its hash.

    Raises:
        DamagedCheckpoint: names the files that are missing or differ.
    """
    manifest = checkpoint / MANIFEST
    if not manifest.exists():
        raise DamagedCheckpoint(f"{checkpoint}: it has no {MANIFEST}; remove this folder, training goes on from an older one")
    wanted: dict[str, str] = json.loads(manifest.read_text(encoding="utf-8"))
    wrong = [name for name, sha256 in wanted.items() if not (checkpoint / name).is_file() or file_sha256(checkpoint / name) != sha256]
    if wrong:
        raise DamagedCheckpoint(
            f"{checkpoint}: {', '.join(wrong)} changed after they were written; remove this folder and look at the disk"
        )


def _seal(folder: Path) -> None:
    hashes = {str(path.relative_to(folder)): file_sha256(path) for path in _files(folder)}
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=2, sort_keys=True), encoding="utf-8")
    for path in (*_files(folder), *(path for path in folder.rglob("*") if path.is_dir()), folder):
        _flush(path)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _flush(path: Path) -> None:
    """To the disk: a renamed file whose content was never written is what power loss leaves otherwise."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
