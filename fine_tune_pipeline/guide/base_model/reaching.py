"""What can go wrong while weights are looked at or fetched, and says nothing about the model: it must not decide the choice."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GIB = 1 << 30

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class NoAnswer(Exception):
    """A model could not be looked at, for a reason that lies outside of it."""


class DiskFull(Exception):
    """The weights do not fit where they have to lie."""


class NotWritable(Exception):
    """The folder of downloads may not be written to."""


def refuse_without_room(needed_bytes: int, folder: Path, *, variable: str) -> None:
    """Ask before a download begins.

    Args:
        variable: what the user sets to have the folder elsewhere.

    Raises:
        DiskFull: says how much is missing.
    """
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed_bytes > free:
        raise DiskFull(
            f"{folder}: the weights still to be fetched take {needed_bytes / GIB:.2f} GiB, free are {free / GIB:.2f}; make room, or set "
            f"{variable} to a folder on a larger disk"
        )


@contextmanager
def writing(folder: Path, *, variable: str) -> Iterator[None]:
    """Name what the operating system says while files are written below `folder`.

    Raises:
        DiskFull, NotWritable: instead of a bare OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(
                f"{folder}: the disk is full ({error}); what is finished is kept: make room, or set {variable} to a folder on a larger "
                "disk, and run again"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise NotWritable(f"{folder}: may not be written to ({error}); allow it, or set {variable} to a folder of your own") from error
        raise
