"""An append-only ledger of what people handed in: JSONL, whole lines or none, safe against crashes and against two writers."""

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from fine_tune_pipeline.artifacts.examples import BrokenLine

Entry = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """One file. An entry is never changed; who wants to take one back hands in another.

    A line is either an entry or the record that a file was taken in (`file`, and the keys of the entries that it held then). By that
    record a file that is read again adds only what it did not hold before: a line that was changed and changed back is news.
    """

    path: Path

    def entries(self) -> list[Entry]:
        """All entries, oldest first.

        Raises:
            BrokenLine: a line that is not the last one is damaged.
        """
        return [line["entry"] for line in self._lines() if "entry" in line]

    def take(self, file: str, entries: Sequence[Entry]) -> int:
        """Add what `file` holds now and did not hold when it was last taken in; how many entries that were.

        Args:
            file: a name for the file that stays, relative to the ledger.
            entries: all that it holds, in order.
        """
        with self._locked() as stream:
            before = self._held(file)
            keys = [_key(entry) for entry in entries]
            if keys == before:
                return 0
            left = Counter(before or ())
            new = []
            for key, entry in zip(keys, entries, strict=True):
                if left[key]:
                    left[key] -= 1
                else:
                    new.append(entry)
            at = datetime.now(UTC).isoformat(timespec="seconds")
            lines = [{"entry": {**entry, "file": file, "taken_at": at}} for entry in new]
            _append(stream, [*lines, {"file": file, "held": keys}])
            return len(new)

    def _held(self, file: str) -> list[str] | None:
        return next((line["held"] for line in reversed(list(self._lines())) if line.get("file") == file and "held" in line), None)

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        lines = self.path.read_bytes().split(b"\n")
        # What stands after the last line end is what a crash left of a line: the entry was never acknowledged, and its file is read again.
        for number, line in enumerate(lines[:-1], start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise BrokenLine(f"{self.path}:{number}: not JSON; restore the file from a backup, or delete this line") from error

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream


def _append(stream: BinaryIO, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write whole lines and wait until the disk has them; a torn line of an earlier crash is cut off first."""
    content = _content(stream)
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        stream.truncate(whole)
    stream.seek(0, os.SEEK_END)
    stream.write(b"".join(json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n" for line in lines))
    stream.flush()
    os.fsync(stream.fileno())


def _content(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read()


def _key(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True, ensure_ascii=False).encode("utf-8")).hexdigest()[:16]
