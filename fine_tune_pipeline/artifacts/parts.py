"""The rows of a step in parts: each is read, worked on and written apart, so memory stays bounded and a broken run goes on where it was."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example, write_examples, write_rows
from fine_tune_pipeline.artifacts.quarantine import Quarantined

PART_ROWS = 5_000
"""Rows of a part: a tenth of a second of overhead each, a few megabytes of memory, and seldom more than seconds to do again."""

_KEPT, _QUARANTINE, _SAID = "kept.jsonl", "quarantine.jsonl", "said.json"


@dataclass(frozen=True)
class Part:
    """Some lines of a JSONL file of examples: `rows` of them, from byte `start` to byte `end`."""

    number: int
    path: str
    start: int
    end: int
    rows: int


@dataclass(frozen=True)
class Worked:
    """What came of some rows; `notes` are plain JSON that the step adds up over all parts."""

    kept: Sequence[Example]
    quarantine: Sequence[Quarantined] = ()
    notes: dict[str, Any] = field(default_factory=dict)


Work = Callable[[Sequence[Example]], Worked]


def cut(path: Path, *, rows: int = PART_ROWS) -> list[Part]:
    """The parts of a JSONL file, in order; none of an empty one."""
    parts: list[Part] = []
    start = end = count = 0
    with path.open("rb") as stream:
        for line in stream:
            end += len(line)
            count += bool(line.strip())
            if count == rows:
                parts.append(Part(len(parts), str(path), start, end, count))
                start, count = end, 0
    return [*parts, Part(len(parts), str(path), start, end, count)] if count else parts


def read_part(part: Part) -> list[Example]:
    """Its examples."""
    with open(part.path, "rb") as stream:
        stream.seek(part.start)
        lines = stream.read(part.end - part.start).decode("utf-8").split("\n")
    return [Example(**json.loads(line)) for line in lines if line.strip()]


def work_on(part: Part, work: Work, *, folder: Path) -> None:
    """Do the work and write what came of it; the notes last, since their presence says that the rest is whole."""
    done = work(read_part(part))
    assert len(done.kept) + len(done.quarantine) == part.rows, f"part {part.number}: {part.rows} rows in, another number out"
    folder.mkdir(parents=True, exist_ok=True)
    write_examples(_file(folder, part, _KEPT), done.kept)
    write_rows(_file(folder, part, _QUARANTINE), map(vars, done.quarantine))
    said = {"part": asdict(part), "kept": len(done.kept), "reasons": Counter(row.reason for row in done.quarantine), "notes": done.notes}
    partial = _file(folder, part, f"{_SAID}.partial")
    partial.write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, _file(folder, part, _SAID))


def missing(parts: Iterable[Part], folder: Path) -> list[Part]:
    """The parts that are still to be done: cut otherwise, they count as not done."""
    return [part for part in parts if (said := _said(folder, part)) is None or said["part"] != asdict(part)]


@dataclass(frozen=True)
class Gathered:
    """All parts of a step, done: what they say together, and where their rows lie."""

    parts: Sequence[Part]
    folder: Path
    kept: int
    reasons: Counter[str]
    notes: Sequence[dict[str, Any]]

    @property
    def rows_in(self) -> int:
        return self.kept + self.reasons.total()

    def write(self, *, examples: Path, quarantine: Path) -> None:
        """The rows of all parts in one file each, in the order they came."""
        for name, path in ((_KEPT, examples), (_QUARANTINE, quarantine)):
            with path.open("wb") as stream:
                for part in self.parts:
                    with _file(self.folder, part, name).open("rb") as rows:
                        shutil.copyfileobj(rows, stream)


def gathered(parts: Sequence[Part], folder: Path) -> Gathered:
    """What came of all parts; each must be done."""
    said = [_said(folder, part) for part in parts]
    found = [one for one in said if one is not None]
    assert len(found) == len(parts), f"{folder}: {len(parts) - len(found)} of {len(parts)} parts are not done"
    reasons = Counter[str]()
    for one in found:
        reasons.update(one["reasons"])
    return Gathered(parts, folder, sum(one["kept"] for one in found), reasons, [one["notes"] for one in found])


def total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    """The sum of counts, name by name."""
    result = Counter[str]()
    for count in counts:
        result.update(count)
    return result


def each_line(path: Path) -> Iterator[Example]:
    """The examples of a file, one at a time."""
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            if line.strip():
                yield Example(**json.loads(line))


def _said(folder: Path, part: Part) -> dict[str, Any] | None:
    path = _file(folder, part, _SAID)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _file(folder: Path, part: Part, name: str) -> Path:
    return folder / f"{part.number:06}.{name}"
