"""The files of a chat export: as they lie in a folder, or within a .zip, which is read without unpacking it to disk."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile, ZipInfo

from fine_tune_pipeline.guide.dataset.sources.files import SourceFile, UnreadableSource, ending

_ENCRYPTED = 0x1
"""The bit of a member's flags. Source: PKWARE's APPNOTE, 4.4.4."""


@dataclass(frozen=True)
class ChatFile:
    """One file: `name` as of a source's file, behind that of its archive if it lies in one; `field` where its source stands in the YAML."""

    name: str
    path: str
    field: str
    open: Callable[[], AbstractContextManager[BinaryIO]]

    @property
    def place(self) -> str:
        """What names it in errors."""
        return f"{self.field} ({self.path})"

    @property
    def base(self) -> str:
        """Its name without folders."""
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> str:
        """Name of the folder that it lies in."""
        return PurePosixPath(self.path).parent.name


@contextmanager
def chat_files(files: Sequence[SourceFile], *, suffix: str) -> Iterator[list[ChatFile]]:
    """The files of a source with the contents of its archives in their place; they can be opened as long as the context lasts.

    Raises:
        UnreadableSource: an archive is none, needs a password, or holds no file that ends with `suffix`.
    """
    with ExitStack() as stack:
        yield [found for file in files for found in (_members(file, suffix, stack) if ending(file.path) == ".zip" else [_plain(file)])]


def _plain(file: SourceFile) -> ChatFile:
    return ChatFile(file.name, file.path, file.field, file.open)


def _members(file: SourceFile, suffix: str, stack: ExitStack) -> list[ChatFile]:
    place = f"{file.field} ({file.path})"
    try:
        archive = stack.enter_context(ZipFile(stack.enter_context(file.open(unpack=False))))
    except BadZipFile as error:
        raise UnreadableSource(f"{place}: not a .zip, or not all of one ({error})") from error
    found = [info for info in sorted(archive.infolist(), key=lambda info: info.filename) if _wanted(info, suffix)]
    if not found:
        raise UnreadableSource(f"{place}: the archive holds no *{suffix}; bring the export as it was downloaded")
    if locked := next((info for info in found if info.flag_bits & _ENCRYPTED), None):
        raise UnreadableSource(f"{place}: {locked.filename} needs a password; bring the archive without one")
    return [_member(archive, info, file) for info in found]


def _wanted(info: ZipInfo, suffix: str) -> bool:
    path = PurePosixPath(info.filename)
    # macOS keeps a second `._` file beside each.
    return not info.is_dir() and path.suffix.lower() == suffix and "__MACOSX" not in path.parts and not path.name.startswith(".")


def _member(archive: ZipFile, info: ZipInfo, file: SourceFile) -> ChatFile:
    path = f"{file.path}/{info.filename}"

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        try:
            with archive.open(info) as stream:
                yield stream  # type: ignore[misc]
        except BadZipFile as error:
            raise UnreadableSource(f"{file.field} ({path}): damaged ({error}); download the export again") from error

    return ChatFile(f"{file.name}/{info.filename}", path, file.field, opened)
