"""Rows that a step took out: kept whole, with the reason, so that nothing is silently dropped."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows

FILE = "quarantine.jsonl"


@dataclass(frozen=True)
class Quarantined:
    """One row, as it came, and why it did not go on.

    `reason` is a short fixed name (`empty`, `exact_duplicate`), `detail` a sentence about this row.
    """

    id: str
    reason: str
    detail: str
    original: dict[str, Any]


def write_quarantine(folder: Path, rows: Iterable[Quarantined]) -> None:
    """Write the rows to `quarantine.jsonl` of an artifact."""
    write_rows(folder / FILE, map(vars, rows))


def read_quarantine(folder: Path) -> list[Quarantined]:
    """The rows that a step took out."""
    return [Quarantined(**row) for row in read_rows(folder / FILE)]


def each_quarantined(folder: Path) -> Iterator[Quarantined]:
    """The same rows, one at a time."""
    with (folder / FILE).open(encoding="utf-8", newline="\n") as stream:
        yield from (Quarantined(**json.loads(line)) for line in stream if line.strip())


def reasons(rows: Iterable[Quarantined]) -> dict[str, int]:
    """How many rows left for which reason, most frequent first."""
    return dict(Counter(row.reason for row in rows).most_common())
