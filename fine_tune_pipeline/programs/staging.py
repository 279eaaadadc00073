"""What lies on a staging shelf: a folder behind a URL, through which a program that shares no storage with its starter is given its files.

blobs/<sha256>            what programs read, by content: the same base model is brought there once
jobs/<name>/stage.json    what is asked, and the files of it by hash; written last, so that its presence says that all is there
jobs/<name>/lease         a text that changes as long as the starter lives
jobs/<name>/messages/<n>  what the program tells, in pieces of whole lines
jobs/<name>/files/<sha256>, outputs.json    what it has written so far; the index is written last
    jobs/<name>/status        its exit code, for places that do not tell it
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.client_failures import client_failures
from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.programs.requests import Contract

STAGE, LEASE, MESSAGES, OUTPUTS, STATUS, FILES, BLOBS = "stage.json", "lease", "messages", "outputs.json", "status", "files", "blobs"

REQUEST_MARK = "{request}"
"""Stands in a command for the file of the request, whose place only the program's machine knows."""


class StagedFile(Contract):
    """One file below a root, by its name there; "." when the root itself is the file."""

    name: str
    sha256: str
    bytes: int


class Root(Contract):
    """A file or folder that the request names: where it lies at the starter, and what is in it."""

    path: str
    writes: bool
    folder: bool
    files: tuple[StagedFile, ...] = ()


class Stage(Contract):
    """One program with its files."""

    identity: str
    request: dict[str, Any]
    resumable: bool
    lease_seconds: float
    roots: tuple[Root, ...]


class Outputs(Contract):
    """What the roots that a program writes hold; `done` once it has ended well."""

    done: bool
    roots: tuple[Root, ...]


class Damaged(Exception):
    """A file on the shelf is not what its hash says."""


class OutOfReach(OSError):
    """The shelf's server does not answer, or does not let us in."""


@dataclass(frozen=True)
class Shelf:
    """A folder behind a URL. Whatever is put there is there whole or not at all."""

    system: Any
    root: str

    @classmethod
    def at(cls, url: str) -> "Shelf":
        from fsspec.core import url_to_fs

        system, root = url_to_fs(url, use_listings_cache=False)
        return cls(system, root.rstrip("/"))

    def sub(self, name: str) -> "Shelf":
        return Shelf(self.system, f"{self.root}/{name}")

    def has(self, name: str) -> bool:
        with self._reached():
            return bool(self.system.exists(f"{self.root}/{name}"))

    def read(self, name: str) -> bytes | None:
        """None when there is no such file."""
        try:
            with self._reached():
                return bytes(self.system.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        with self._reached(), self._whole(name) as path:
            self.system.pipe_file(path, content)

    def bring(self, file: Path, name: str) -> None:
        """Put a local file there, unless one of that name is there already."""
        if not self.has(name):
            with self._reached(), self._whole(name) as path:
                self.system.put_file(str(file), path)

    def fetch(self, name: str, file: Path, sha256: str) -> None:
        """Get a file.

        Raises:
            Damaged: it is not what the hash says.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._reached():
            self.system.get_file(f"{self.root}/{name}", str(file))
        if (seen := file_sha256(file)) != sha256:
            raise Damaged(f"{self.root}/{name}: got a file of hash {seen[:12]}, want {sha256[:12]}: remove it, so that it is brought anew")

    def remove(self) -> None:
        """The whole folder."""
        with self._reached():
            if self.system.exists(self.root):
                self.system.rm(self.root, recursive=True)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """A client's own errors become one kind."""
        try:
            yield
        except client_failures(self._protocols) as error:
            raise OutOfReach(f"{self.root}: {error}") from error

    @property
    def _protocols(self) -> tuple[str, ...]:
        protocol = self.system.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def _whole(self, name: str) -> "_Whole":
        return _Whole(self.system, f"{self.root}/{name}", local="file" in self._protocols)


class _Whole:
    """The path to write to; object stores show a file once it is whole, folders do when it is renamed."""

    def __init__(self, system: Any, path: str, *, local: bool) -> None:
        self._system = system
        self._path = path
        self._local = local
        self._partial = f"{path}.{uuid.uuid4().hex[:8]}.partial" if local else path

    def __enter__(self) -> str:
        if self._local:
            self._system.makedirs(os.path.dirname(self._path), exist_ok=True)
        return self._partial

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._local and kind is None:
            os.replace(self._partial, self._path)


def files_below(path: Path, *, without: Iterable[str] = ()) -> Iterator[tuple[str, Path]]:
    """Each file of a folder with its name there; a file itself is named `.`."""
    if path.is_file():
        yield ".", path
        return
    left_out = set(without)
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if file.is_file() and name.parts[0] not in left_out:
            yield name.as_posix(), file


def staged(name: str, file: Path) -> StagedFile:
    """What is said of a file."""
    return StagedFile(name=name, sha256=file_sha256(file), bytes=file.stat().st_size)


def placed(root: Path, name: str) -> Path:
    """Where a file of a root lies, by its name there."""
    return root if name == "." else root / name


def moved(document: Any, places: Mapping[str, str]) -> Any:
    """A JSON document in which every text that is one of these paths, or lies below one, is at its new place."""
    if isinstance(document, dict):
        return {name: moved(value, places) for name, value in document.items()}
    if isinstance(document, list):
        return [moved(value, places) for value in document]
    if not isinstance(document, str):
        return document
    for old in sorted(places, key=len, reverse=True):
        if document == old or document.startswith(f"{old}/"):
            return places[old] + document[len(old) :]
    return document


def move_file(file: Path, places: Mapping[str, str]) -> None:
    """The same with a JSON file, in place and atomically."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(moved(json.loads(file.read_text(encoding="utf-8")), places), indent=2), encoding="utf-8")
    os.replace(partial, file)
