"""Is a folder still what it was? Its files against the hashes that lie beside them: an artifact's manifest, or an export's SHA256SUMS.

`SHA256SUMS` is the format of coreutils, so that whoever gets an export can check it with `sha256sum --check SHA256SUMS` alone.
"""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import ValidationError

from fine_tune_pipeline.artifacts.fingerprint import file_sha256, fingerprint
from fine_tune_pipeline.artifacts.manifest import Manifest

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"

Problem = Literal["differs", "is missing", "is extra", "cannot be read"]

_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>.+)")


class NothingToVerify(ValueError):
    """The folder is not there, or has no list of hashes."""


class _Unreadable(ValueError):
    """The list of hashes is damaged itself."""


@dataclass(frozen=True)
class Wrong:
    """A file that is not as the hashes say."""

    file: str
    problem: Problem


@dataclass(frozen=True)
class Verified:
    """What was found of a folder; `by` is the file that holds the hashes, `files` how many it names."""

    folder: Path
    by: str
    files: int
    wrong: tuple[Wrong, ...]


def verify(folder: Path) -> Verified:
    """Hash every file of an artifact or of an export again. Files that nobody named are wrong, too.

    Raises:
        NothingToVerify: there is no such folder, or no list of hashes in it.
    """
    by = next((name for name in (MANIFEST, SUMS) if (folder / name).is_file()), None)
    if by is None:
        seen = f"no {MANIFEST} and no {SUMS} in it" if folder.is_dir() else "no such folder"
        raise NothingToVerify(f"{folder}: {seen}; want the folder of an export, or of an artifact of the store")
    try:
        files = _manifest_files(folder / by) if by == MANIFEST else _sums(folder / by)
    except _Unreadable:
        return Verified(folder, by, 0, (Wrong(by, "cannot be read"),))
    extra = sorted(_names(folder) - files.keys() - {by})
    return Verified(folder, by, len(files), (*differing(folder, files), *(Wrong(name, "is extra") for name in extra)))


def differing(folder: Path, files: Mapping[str, str]) -> list[Wrong]:
    """Those of the named files that are missing, cannot be read or have another SHA-256; all bytes are read for it.

    Args:
        files: path below `folder` -> SHA-256.
    """
    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(lambda named: _problem(folder / named[0], named[1]), files.items()))
    return [Wrong(name, problem) for name, problem in zip(files, problems, strict=True) if problem is not None]


def write_sums(folder: Path) -> dict[str, str]:
    """Write `SHA256SUMS` of all files in the folder, and give them: path -> SHA-256."""
    files = {name: file_sha256(folder / name) for name in sorted(_names(folder) - {SUMS})}
    lines = [f"{digest}  {name}\n" for name, digest in files.items()]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    return files


def _manifest_files(path: Path) -> dict[str, str]:
    """The fingerprint hashes the payload beside it: a manifest that was edited shows."""
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise _Unreadable(str(path)) from error
    if fingerprint(manifest.payload) != manifest.fingerprint or not all(map(_is_below, manifest.files)):
        raise _Unreadable(str(path))
    return manifest.files


def _sums(path: Path) -> dict[str, str]:
    try:
        return dict(_sum_lines(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise _Unreadable(str(path)) from error


def _sum_lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or not _is_below(match["name"]):
            raise _Unreadable(line)
        yield match["name"], match["digest"]


def _is_below(name: str) -> bool:
    """A list of hashes says nothing of files outside its folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _problem(path: Path, digest: str) -> Problem | None:
    if not path.is_file():
        return "is missing"
    try:
        return None if file_sha256(path) == digest else "differs"
    except OSError:
        # No right to read it, or a disk that gives up: either way these are not the bytes that were written.
        return "cannot be read"
