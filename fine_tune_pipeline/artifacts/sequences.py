"""Rows that lie in a file and are read when they are asked for, and views of them: a million are sixteen megabytes, not three gigabytes.

All of them are sequences: a step reads a list and a file alike, and gives back what it chose as a view, which is written row by row.
"""

import json
import os
import weakref
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.artifacts.examples import BrokenLine, Example
from fine_tune_pipeline.artifacts.quarantine import FILE, Quarantined

_COMING = "coming.jsonl"

S = TypeVar("S")
T = TypeVar("T")

_BLOCK = 2**20
"""Bytes that are read at a time: rows are mostly asked for one after the other."""


class Rows(Sequence[T]):
    """A sequence that makes each row when it is asked for; equal to any other sequence of equal rows."""

    @abstractmethod
    def row(self, place: int) -> T:
        """The row at a place from 0 on."""

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return [self.row(one) for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self.row(place % len(self))

    def __iter__(self) -> Iterator[T]:
        return map(self.row, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"{type(self).__name__}([{shown}{', …' if len(self) > 3 else ''}], {len(self)} rows)"


class Stored(Rows[T]):
    """The objects of a JSONL file. The file may be replaced or deleted meanwhile: what was opened is read."""

    def __init__(self, path: Path, make: Callable[[dict[str, Any]], T]) -> None:
        self._path, self._make = path, make
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._begins, self._ends = _lines(self._file)
        self._block, self._from = b"", 0

    def __len__(self) -> int:
        return len(self._begins)

    def row(self, place: int) -> T:
        """The row at a place.

        Raises:
            BrokenLine: names file, row and what was seen.
        """
        begin, end = int(self._begins[place]), int(self._ends[place])
        if not self._from <= begin or end > self._from + len(self._block):
            self._block, self._from = os.pread(self._file, max(_BLOCK, end - begin), begin), begin
        line = self._block[begin - self._from : end - self._from]
        try:
            found = json.loads(line.decode("utf-8"))
        except json.JSONDecodeError as error:
            raise BrokenLine(f"{self._path}: row {place + 1}: not JSON ({error.msg} at column {error.colno}); want an object") from error
        if not isinstance(found, dict):
            raise BrokenLine(f"{self._path}: row {place + 1}: got {type(found).__name__}, want an object")
        return self._make(found)


def stored_examples(path: Path) -> Stored[Example]:
    """The examples of a JSONL file that a step wrote."""
    return Stored(path, lambda row: Example(**row))


def stored_quarantine(folder: Path) -> Stored[Quarantined]:
    """The rows that a step took out."""
    return Stored(folder / FILE, lambda row: Quarantined(**row))


class Chosen(Rows[T], Generic[S, T]):
    """Rows at some places of others, each made into what it is here."""

    def __init__(self, rows: Sequence[S], places: Sequence[int] | NDArray[np.int64], make: Callable[[int, S], T]) -> None:
        """Choose.

        Args:
            make: place in `rows`, the row there -> the row here; called whenever one is asked for, so it always gives the same.
        """
        self._rows, self._make = rows, make
        self.places = np.asarray(places, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.places)

    def row(self, place: int) -> T:
        at = int(self.places[place])
        return self._make(at, self._rows[at])


def chosen(rows: Sequence[T], places: Sequence[int] | NDArray[np.int64]) -> Chosen[T, T]:
    """Rows at some places of others, as they are."""
    return Chosen(rows, places, lambda _, row: row)


def each(rows: Sequence[S], make: Callable[[S], T]) -> Chosen[S, T]:
    """Of each row what is made of it."""
    return Chosen(rows, np.arange(len(rows)), lambda _, row: make(row))


def where(rows: Sequence[T], wanted: Callable[[T], bool]) -> Chosen[T, T]:
    """The rows of which this is true."""
    return chosen(rows, [place for place, row in enumerate(rows) if wanted(row)])


class Joined(Rows[T]):
    """Several sequences, one after the other."""

    def __init__(self, *parts: Sequence[T]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, place: int) -> T:
        number = bisect_right(self._ends, place)
        return self._parts[number][place - (self._ends[number - 1] if number else 0)]


class RowFiles:
    """Examples and refused rows, written while they come: two files, read afterwards, and deleted by who has made others of them."""

    def __init__(self, folder: Path) -> None:
        self._kept = (folder / _COMING).open("w", encoding="utf-8")
        self._refused = (folder / f"{_COMING}.{FILE}").open("w", encoding="utf-8")

    def __enter__(self) -> "RowFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()
        self._refused.close()

    def keep(self, example: Example) -> None:
        """Write an example."""
        self._kept.write(json.dumps(example.row(), ensure_ascii=False) + "\n")

    def refuse(self, row: Quarantined) -> None:
        """Write a row that is none."""
        self._refused.write(json.dumps(vars(row), ensure_ascii=False) + "\n")

    def examples(self) -> Stored[Example]:
        """All that were kept."""
        return stored_examples(Path(self._kept.name))

    def quarantine(self) -> Stored[Quarantined]:
        """All that were refused."""
        return Stored(Path(self._refused.name), lambda row: Quarantined(**row))

    def delete(self) -> None:
        """Leave nothing in the folder."""
        for file in (self._kept, self._refused):
            Path(file.name).unlink()


def _lines(file: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each line begins and ends, but for empty ones."""
    begins, ends = [np.zeros(1, dtype=np.int64)], []
    place, last = 0, b"\n"
    while block := os.pread(file, 16 * _BLOCK, place):
        breaks = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == 10) + place
        ends.append(breaks)
        begins.append(breaks + 1)
        place, last = place + len(block), block[-1:]
    all_begins, all_ends = np.concatenate(begins), np.concatenate([*ends, np.array([place] if last != b"\n" else [], dtype=np.int64)])
    all_begins = all_begins[: len(all_ends)]
    full = all_ends > all_begins
    return all_begins[full], all_ends[full]
