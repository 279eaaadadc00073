"""The files that a source's path names: one file, a folder, a glob, each local or at a URL that fsspec knows."""

import io
import lzma
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from fine_tune_pipeline.artifacts.client_failures import client_failures
from fine_tune_pipeline.artifacts.fingerprint import stream_sha256
from fine_tune_pipeline.spec.paths import COMPRESSED, is_glob


class MissingSource(FileNotFoundError):
    """The path of a source names no file."""


class UnreadableSource(ValueError):
    """A file of a source is not what its type says."""


@dataclass(frozen=True)
class SourceFile:
    """One file: `name` is what follows the place that all files of the source share, `field` where its source stands in the YAML."""

    name: str
    path: str
    system: AbstractFileSystem
    field: str

    @contextmanager
    def open(self, *, unpack: bool = True) -> Iterator[BinaryIO]:
        """Its bytes, unpacked where the ending says that they are packed.

        Raises:
            UnreadableSource: the place does not give them, or they cannot be unpacked.
        """
        try:
            # Buffered anew: the files of some places read no line of at most so many bytes.
            with (
                self.system.open(self.path, "rb", compression="infer" if unpack else None) as stream,
                io.BufferedReader(stream) as buffered,
            ):
                yield buffered
        except PermissionError as error:
            raise UnreadableSource(f"{self.field} ({self.path}): may not be read ({error}); let the user who runs this read it") from error
        except _failures(self.system) as error:
            raise UnreadableSource(f"{self.field} ({self.path}): cannot be read ({type(error).__name__}: {error})") from error

    def sha256(self) -> str:
        """Of the unpacked bytes."""
        with self.open() as stream:
            return stream_sha256(stream)


def ending(path: str) -> str:
    """How a path ends, in lower case and without the ending of a packed file: `.jsonl` for `rows.JSONL.gz`."""
    endings = PurePosixPath(path).suffixes
    if endings and endings[-1].lower() in COMPRESSED:
        endings = endings[:-1]
    return endings[-1].lower() if endings else ""


def files_at(place: str, *, suffixes: Collection[str], field: str, others: bool = False) -> list[SourceFile]:
    """All files that `place` names, in the order of their paths; of a folder those below it that end as `suffixes` say.

    Args:
        place: an absolute path or a URL; `*`, `**`, `?` and `[…]` as in a shell.
        suffixes: such as `.jsonl`; `.jsonl.gz` counts too.
        field: where the path stands in the YAML.
        others: take files of a folder that end otherwise too, but for hidden ones.

    Raises:
        MissingSource: there is none.
        UnreadableSource: the place cannot be looked at, as when the package for its protocol is missing.
    """
    try:
        system, root = url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise UnreadableSource(f"{field}: {_unopened(get_protocol(place), error)}") from error
    try:
        found = _found(system, root, suffixes, others=others)
    except _failures(system) as error:
        raise UnreadableSource(f"{field}: {place} cannot be looked at ({type(error).__name__}: {error})") from error
    if not found:
        raise MissingSource(f"{field}: {place} is not there, or holds no {_listed(suffixes)}; paths begin at the folder of the YAML file")
    shared = _shared(found)
    return [SourceFile(name=path.removeprefix(shared), path=path, system=system, field=field) for path in found]


def _unopened(protocol: str, error: Exception) -> str:
    if isinstance(error, ImportError) and protocol in _EXTRAS:
        package, extra = _EXTRAS[protocol]
        return f"{protocol}:// needs the package {package}: pip install 'fine_tune_pipeline[{extra}]'"
    return f"{protocol}:// cannot be opened: {error}"


def _found(system: AbstractFileSystem, root: str, suffixes: Collection[str], *, others: bool) -> list[str]:
    # What is there by this very name goes first: names may hold the signs of a glob.
    if system.isfile(root):
        return [root]
    if system.isdir(root):
        return sorted(path for path in system.find(root) if ending(path) in suffixes or (others and not _hidden(path)))
    if not is_glob(root):
        # Some systems take a server that is down, or says no, for a file that is not there; when asked about it they say which.
        with suppress(FileNotFoundError):
            system.info(root)
        return []
    found: dict[str, Any] = system.glob(root, detail=True)
    return sorted(path for path, info in found.items() if info["type"] == "file")


def _hidden(path: str) -> bool:
    # Office keeps ~$ files beside documents that are open.
    return PurePosixPath(path).name.startswith((".", "~$"))


def _shared(paths: list[str]) -> str:
    """What all paths begin with, up to a slash; of one path all but its name."""
    first, last = paths[0], paths[-1]
    same = next((place for place, sign in enumerate(first) if last[place : place + 1] != sign), len(first))
    return first[: first.rfind("/", 0, same) + 1]


_EXTRAS = {
    "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "gcs": ("gcsfs", "gs"),
    "abfs": ("adlfs", "abfs"), "abfss": ("adlfs", "abfs"), "az": ("adlfs", "abfs"),
}  # fmt: skip
"""The package that reads from a place, and the extra of ours that brings it."""


def _failures(system: AbstractFileSystem) -> tuple[type[Exception], ...]:
    """What looking at a place or reading its bytes can raise: the place says no, an archive is damaged, a server answers with an error."""
    common = (OSError, EOFError, NotImplementedError, zlib.error, lzma.LZMAError)
    protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
    if "hf" in protocols:
        from huggingface_hub.errors import HfHubHTTPError

        # Its bases, since a hub that is not reached raises that of the HTTP library, whose name differs by version.
        return (*common, *HfHubHTTPError.__bases__)
    return (*common, *client_failures(protocols))


def _listed(suffixes: Collection[str]) -> str:
    return " or ".join(f"*{suffix}" for suffix in suffixes)
