"""How often test items have been looked at: one small record per look, in numbered places that are taken once and never changed.

A look is a set of answers held against the test items by some criteria. Who looks again at the same takes nothing. Records are of all use
cases of a store, since a test set that two of them share is worn out by both. `<store>/.looks/00001/look.json` appears whole or not at
all, and only one run can make it, on this machine and in a bucket alike.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from upath import UPath

from fine_tune_pipeline.artifacts.examples import Example

FOLDER = ".looks"
RECORD = "look.json"

SHARED = 0.05
"""Of the items of a test set; more than that seen before, and it is not fresh. A few lines such as "thank you" stand in any two sets."""


def looked_at(rows: Sequence[Example]) -> list[str]:
    """What makes a test row the same one again: its question and its right answer, under whatever id."""
    return [json.dumps([row.history, row.prompt, row.completion], ensure_ascii=False) for row in rows]


@dataclass(frozen=True)
class Look:
    """The `number`-th look at these items, the first is 1. `seen_before` of its `items` were looked at by others."""

    number: int
    items: int
    seen_before: int


@dataclass(frozen=True)
class Looks:
    """The record of a store."""

    root: UPath

    def take(self, items: Sequence[str], *, at_what: Any, use_case: str) -> Look:
        """Count a look, unless the same one is counted already; the number it has.

        Args:
            items: what each test row says, in any order.
            at_what: the answers and criteria, as JSON: with the same items and these it is the same look.
            use_case: for people who read the record.
        """
        hashes = _hashes(items)
        look = _digest([hashes, at_what])
        while True:
            taken = self._taken()
            place = next((number for number, record in taken.items() if record["look"] == look), None)
            if place is not None:
                return _numbered(hashes, [record for number, record in taken.items() if number < place])
            record = {"look": look, "use_case": use_case, "at": datetime.now(UTC).isoformat(timespec="seconds"), "items": hashes}
            # Another run may take the place first; then what it looked at counts as earlier.
            self._create(max(taken, default=0) + 1, record)

    def next(self, items: Sequence[str]) -> Look:
        """The look that whoever judges new answers on these items would take."""
        return _numbered(_hashes(items), list(self._taken().values()))

    def _taken(self) -> dict[int, dict[str, Any]]:
        """Place -> record, in the order in which they were taken."""
        # Another machine may have taken a place since this one listed the bucket.
        self.root.fs.invalidate_cache(self.root.path)
        places = sorted(int(place.name) for place in self.root.iterdir() if place.name.isdigit()) if self.root.exists() else []
        return {place: json.loads((self._place(place) / RECORD).read_text(encoding="utf-8")) for place in places}

    def _place(self, number: int) -> UPath:
        return self.root / f"{number:05d}"

    def _create(self, number: int, record: dict[str, Any]) -> None:
        """Make the record whole, unless the place is taken."""
        content = json.dumps(record).encode("utf-8")
        if self.root.protocol in ("", "file", "local"):
            _create_folder(Path(str(self._place(number))), content)
            return
        target = self._place(number) / RECORD
        try:
            target.fs.pipe_file(target.path, content, mode="create")
        except FileExistsError:
            return


def _create_folder(place: Path, content: bytes) -> None:
    """A folder that is renamed to its place with its record in it: a folder with something in it is never replaced."""
    draft = place.with_name(f".{place.name}-{uuid4().hex[:8]}")
    draft.mkdir(parents=True)
    try:
        with (draft / RECORD).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(draft, place)
    except OSError:
        if not place.exists():
            raise
        shutil.rmtree(draft)
        return
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _numbered(hashes: Sequence[str], earlier: Sequence[dict[str, Any]]) -> Look:
    own = set(hashes)
    shared = [own & set(record["items"]) for record in earlier]
    number = 1 + sum(len(common) > SHARED * len(own) for common in shared)
    return Look(number=number, items=len(own), seen_before=len(set().union(*shared)))


def _hashes(items: Sequence[str]) -> list[str]:
    return sorted({hashlib.sha256(item.encode("utf-8")).hexdigest()[:12] for item in items})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8")).hexdigest()[:16]
