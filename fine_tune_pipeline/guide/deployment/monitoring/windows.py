"""The traffic log cut into closed windows: each request lies in exactly one, and a closed window never changes."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.artifacts.traffic import Logged, ServedRequest, TrafficLog
from fine_tune_pipeline.programs.requests import Contract

FILE = "traffic.json"
FOLDER = "windows"

KEPT_WINDOWS = 20
"""Closed windows that an artifact holds; earlier ones lie in the artifacts before it."""

LATE_SECONDS = 600.0
"""A request may come into the log so much later than one with a later time, as with several servers: it goes into the next window."""

TEXTS_SECONDS = 60.0
"""So long a request without texts waits for them: they come into the log a second after it, later if the scrubber has much to do."""

MOST_ROWS = 100_000
"""Rows that are taken out of the log at once, about 100 MB; of a longer backlog the oldest rows get no window, and that is told."""


class Window(Contract):
    """A closed window. `file` is relative to the artifact, `sha256` is its content's; times are seconds since 1970 (UTC)."""

    number: int
    file: str
    sha256: str
    requests: int
    first: float
    last: float
    versions: dict[str, int]
    statuses: dict[str, int]


class Cursor(Contract):
    """How far the log is cut: the latest time of a request in a window, and those in a window that are hardly older than that."""

    closed: int = 0
    ts: float = 0.0
    recent: tuple[str, ...] = ()


class Traffic(Contract):
    """`traffic.json`. `waiting` requests are in no window yet; `dropped` are missing from the log; `left_out`: more had come
    than are read at once, so the oldest may have no window."""

    window: int
    windows: tuple[Window, ...]
    waiting: int
    dropped: int
    left_out: bool
    cursor: Cursor


@dataclass(frozen=True)
class Cut:
    """New windows, oldest first, and what is left."""

    windows: Sequence[Sequence[Logged]]
    waiting: int
    left_out: bool
    cursor: Cursor


def cut(log: TrafficLog, cursor: Cursor, *, window: int, now: float, most: int = MOST_ROWS) -> Cut:
    """Close as many windows as there are full ones since the cursor. A request whose texts are still being scrubbed waits for a later one.

    Args:
        window: requests of each.
        now: seconds since 1970.
        most: rows that are read.
    """
    since = max(0.0, cursor.ts - LATE_SECONDS)
    found = log.window(most, since=since)
    known = set(cursor.recent)
    fresh = [logged for logged in found if logged.request.id not in known]
    ready = [logged for logged in fresh if not _awaits_texts(logged.request, now)]
    whole = len(ready) // window * window
    closed = ready[:whole]
    if not closed:
        return Cut(windows=(), waiting=len(fresh), left_out=False, cursor=cursor)
    ts = max(cursor.ts, *(logged.request.ts for logged in closed))
    inside = [*(logged.request for logged in found if logged.request.id in known), *(logged.request for logged in closed)]
    recent = tuple(request.id for request in inside if request.ts >= ts - LATE_SECONDS)
    return Cut(
        windows=[closed[start : start + window] for start in range(0, whole, window)],
        waiting=len(fresh) - whole,
        left_out=len(found) == most,
        cursor=Cursor(closed=cursor.closed + whole // window, ts=ts, recent=recent),
    )


def _awaits_texts(request: ServedRequest, now: float) -> bool:
    return request.prompt_scrubbed is None and not request.scrubber and now - request.ts < TEXTS_SECONDS


def write_windows(found: Cut, folder: Path, *, before: Artifact | None, window: int, dropped: int) -> Traffic:
    """Write new windows as Parquet, take over the last ones of the artifact before, and write `traffic.json`."""
    (folder / FOLDER).mkdir()
    first = found.cursor.closed - len(found.windows) + 1
    # Of a long backlog too only as many are kept as may be judged.
    new = list(enumerate(found.windows, start=first))[-KEPT_WINDOWS:]
    kept = [] if before is None else read_traffic(before).windows
    kept = [one for one in kept if one.number > found.cursor.closed - KEPT_WINDOWS]
    for one in kept:
        assert before is not None
        _link(before.file(one.file), folder / one.file)
    windows = (*kept, *(_written(number, rows, folder) for number, rows in new))
    traffic = Traffic(
        window=window,
        windows=windows,
        waiting=found.waiting,
        dropped=dropped,
        left_out=found.left_out,
        cursor=found.cursor,
    )
    (folder / FILE).write_text(traffic.model_dump_json(indent=2), encoding="utf-8")
    return traffic


def read_traffic(artifact: Artifact) -> Traffic:
    """What an artifact of `production_traffic` holds."""
    return Traffic.read(artifact.file(FILE))


def read_window(artifact: Artifact, window: Window) -> list[dict[str, Any]]:
    """The rows of a window, as `Logged.row` gives them."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(artifact.file(window.file)).to_pylist()
    return [{**row, "feedback": json.loads(row["feedback"])} for row in rows]


def cursor_of(before: Artifact | None) -> Cursor:
    """Where the artifact before stopped; one of an earlier version of this project had no windows."""
    if before is None or FILE not in before.manifest.files:
        return Cursor()
    return read_traffic(before).cursor


def time_text(ts: float) -> str:
    """Such as 2026-03-01T12:00:00+00:00."""
    return datetime.fromtimestamp(ts, tz=UTC).isoformat(timespec="seconds")


def _written(number: int, rows: Sequence[Logged], folder: Path) -> Window:
    import pyarrow
    import pyarrow.parquet

    name = f"{FOLDER}/{number:06d}.parquet"
    records = [{**(row := logged.row()), "feedback": json.dumps(row["feedback"], ensure_ascii=False)} for logged in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, schema=_schema(records)), folder / name)
    requests = [logged.request for logged in rows]
    return Window(
        number=number,
        file=name,
        sha256=file_sha256(folder / name),
        requests=len(rows),
        first=min(request.ts for request in requests),
        last=max(request.ts for request in requests),
        versions=dict(sorted(Counter(request.version for request in requests).items())),
        statuses=dict(sorted(Counter(str(request.status) for request in requests).items())),
    )


def _schema(records: Sequence[dict[str, Any]]) -> Any:
    """Columns with a type even where all values of a window are missing."""
    import pyarrow

    kinds = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}

    def kind(name: str) -> Any:
        value = next((row[name] for row in records if row[name] is not None), "")
        return pyarrow.bool_() if name == "valid" else pyarrow.float64() if name in _NUMBERS else kinds[type(value)]

    return pyarrow.schema([(name, kind(name)) for name in records[0]])


_NUMBERS = ("ts", "latency_ms", "confidence")


def _link(old: Path, new: Path) -> None:
    """The same bytes once more, without a copy where the file system can do that."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)
