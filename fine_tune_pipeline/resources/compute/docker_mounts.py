"""Which folders and files a container sees: those that its request names, at the paths that they have here."""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.store import in_store
from fine_tune_pipeline.resources.compute.job import Job, PlaceFailure

UNPRIVILEGED = 10001
"""User and group of programs when we are root ourselves: an account that no system has."""


@dataclass(frozen=True)
class Mounted:
    """A folder or file of the engine's machine, or a named volume, as a container sees it."""

    source: str
    target: Path
    read_only: bool

    @property
    def settings(self) -> dict[str, Any]:
        """As the engine's interface has it: unlike in the short form, a source that is not there is an error."""
        kind = "bind" if self.source.startswith("/") else "volume"
        return {"Type": kind, "Source": self.source, "Target": str(self.target), "ReadOnly": self.read_only}


def configured(volumes: Mapping[str, str]) -> list[Mounted]:
    """What the place always mounts: `{name or folder: /where}`, or `/where:ro`."""
    found = []
    for source, where in volumes.items():
        target, _, mode = where.partition(":")
        if not target.startswith("/") or mode not in ("", "ro", "rw"):
            raise PlaceFailure(f"compute.place.volumes: {source}: got {where!r}, want an absolute path, such as /data or /data:ro")
        found.append(Mounted(source, Path(target), read_only=mode == "ro"))
    return found


def of_job(job: Job, volumes: Sequence[Mounted]) -> list[Mounted]:
    """What this job needs beyond the volumes, each at its own path.

    Raises:
        PlaceFailure: something that it reads is not there.
    """
    targets = [volume.target for volume in volumes]
    written = [path for path in map(writable_folder, job.writes) if not _within(path, targets)]
    read = [path for path in (*job.reads, *linked(job.reads)) if not _within(path, [*targets, *written])]
    wanted = {**dict.fromkeys(read, True), **dict.fromkeys(written, False)}
    if absent := [str(path) for path in wanted if not path.exists()]:
        raise PlaceFailure(f"{job.program}: {', '.join(absent)}: not there, so no container can be given it")
    return [Mounted(str(path), path, read_only) for path, read_only in wanted.items()]


def _within(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def writable_folder(path: Path) -> Path:
    """What is mounted so that `path` can be written: a file may not exist yet, and is replaced as a whole."""
    return path if path.is_dir() else path.parent


def linked(paths: Sequence[Path]) -> list[Path]:
    """Files outside of the folders to which links in them lead, as those of a cache of the Hugging Face Hub do."""
    links = [link for path in paths if path.is_dir() for link in path.rglob("*") if link.is_symlink()]
    return sorted({link.resolve() for link in links if not _within(link.resolve(), paths)})


def user_of(configured_user: str | None) -> str:
    """`uid:gid` of the programs: ours, since they write into our folders; not root's."""
    if configured_user is not None:
        return configured_user
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{UNPRIVILEGED}:{UNPRIVILEGED}"


def handed_over(job: Job, user: str) -> None:
    """Give what the job writes to its user, and let it read what only we may read of the store; if we are root, who alone may do so.

    Raises:
        PlaceFailure: it reads something outside of the store, or of somebody else's, that its user may not read.
    """
    uid, _, gid = user.partition(":")
    if os.getuid() or uid == "0":
        return
    for path in job.writes:
        folder = writable_folder(path)
        for one in (folder, *(folder.rglob("*") if folder == path else [path] if path.exists() else [])):
            os.chown(one, int(uid), int(gid or -1), follow_symlinks=False)
    parts = [part for path in (*job.reads, *linked(job.reads)) if path.exists() for part in (path, *path.rglob("*"))]
    if closed := [str(part) for part in parts if not part.is_symlink() and not _opened(part, int(uid), int(gid or -1))]:
        raise PlaceFailure(
            f"{job.program}: user {user} of the container may not read {', '.join(closed)}: chmod -R o+rX there, or set compute.place.user"
        )


def _opened(path: Path, uid: int, gid: int) -> bool:
    """Whether the user may read it, now at the latest: a file of root's in the store gets the user's group. Weights are written as 0600."""
    seen = path.stat()
    needed = 0o5 if path.is_dir() else 0o4
    if seen.st_mode & (needed << 6 if seen.st_uid == uid else needed << 3 if seen.st_gid == gid else needed) >= needed:
        return True
    if gid < 0 or not in_store(path) or (seen.st_uid, seen.st_gid) != (os.getuid(), os.getgid()):
        return False
    os.chown(path, -1, gid)
    path.chmod(stat.S_IMODE(seen.st_mode) | needed << 3)
    return True
