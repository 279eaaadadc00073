"""How many answers a server has given, in a file that is mapped into memory: the number survives a kill, and costs no write to the disk.

The traffic log says how many it accounts for; what is missing when the server starts again was lost with the process before.
"""

import mmap
import os
import secrets
import struct
from contextlib import suppress
from pathlib import Path

FILE = "answered.count"
_LAYOUT = struct.Struct("<16sQQ")
"""Who counts, how many answers, and whether the log has ever heard of this server."""


class AnswerCount:
    """One server's count; not to be used by two processes at a time."""

    def __init__(self, path: Path | None = None) -> None:
        """
        Args:
            path: of the file; without one, or where none can be written, the number ends with the process.
        """
        self._memory = _mapped(path)
        server, self._answered, known = _LAYOUT.unpack_from(self._memory)
        self.server = server.hex()
        self._known = bool(known)
        self.lasting = path is not None
        self.before = self._answered

    @property
    def answered(self) -> int:
        """Answers since the file was made."""
        return self._answered

    @property
    def known(self) -> bool:
        """Whether the log has accounted for answers of this server before."""
        return self._known

    def add(self) -> None:
        """One more answer; callers take turns."""
        self._answered += 1
        struct.pack_into("<Q", self._memory, 16, self._answered)

    def mark_known(self) -> None:
        """The log has this server now."""
        if not self._known:
            self._known = True
            struct.pack_into("<Q", self._memory, 24, 1)


def _mapped(path: Path | None) -> mmap.mmap:
    fresh = _LAYOUT.pack(secrets.token_bytes(16), 0, 0)
    if path is not None:
        # A full disk must not keep the server from answering.
        with suppress(OSError):
            return _file_mapped(path, fresh)
    memory = mmap.mmap(-1, _LAYOUT.size)
    memory.write(fresh)
    return memory


def _file_mapped(path: Path, fresh: bytes) -> mmap.mmap:
    if not path.exists() or path.stat().st_size != _LAYOUT.size:
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(fresh)
        os.replace(partial, path)
    with path.open("r+b") as stream:
        return mmap.mmap(stream.fileno(), _LAYOUT.size)
