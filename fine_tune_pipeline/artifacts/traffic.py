"""The traffic log of an endpoint: what was asked and answered, scrubbed before it comes here, and what people said of it.

`<folder>/traffic.sqlite` (write-ahead log), written by the endpoint, read by steps 3 and 8. Readers never wait for the writer.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

FILE = "traffic.sqlite"
CHAMPION = "champion"
WRITER_WAIT_SECONDS = 10.0
"""How long a writer waits for another one before the log counts as locked."""

_TABLES = """
CREATE TABLE IF NOT EXISTS request (
    id TEXT PRIMARY KEY, ts REAL NOT NULL, use_case TEXT NOT NULL, version TEXT NOT NULL, arm TEXT NOT NULL,
    prompt_scrubbed TEXT, answer_scrubbed TEXT, prompt_tokens INTEGER NOT NULL, new_tokens INTEGER NOT NULL,
    latency_ms REAL NOT NULL, status INTEGER NOT NULL, valid INTEGER, confidence REAL, user_hash TEXT,
    prompt_characters INTEGER NOT NULL, answer_characters INTEGER NOT NULL, prompt_hash TEXT, answer_hash TEXT, scrubber TEXT NOT NULL,
    before_scrubbed TEXT, sources TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS request_by_time ON request (ts);
CREATE TABLE IF NOT EXISTS feedback (
    request_id TEXT NOT NULL REFERENCES request (id), ts REAL NOT NULL, thumb TEXT, corrected TEXT, source TEXT NOT NULL,
    PRIMARY KEY (request_id, source)
) STRICT;
CREATE TABLE IF NOT EXISTS dropped (ts REAL NOT NULL, rows INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;
"""


_NEW_COLUMNS = ("before_scrubbed", "sources")
"""That logs of earlier versions lack."""


class UnknownRequest(Exception):
    """Feedback names a request that is not in the log."""


@dataclass(frozen=True)
class ServedRequest:
    """One request and its answer, as the log keeps it.

    `ts` in seconds since 1970 (UTC); `latency_ms` from arrival to answer; `status` as in HTTP; `valid` says whether the answer fits the
    task, None if nobody can tell; `confidence` is the mean log-probability (nats) of the answer's tokens. The texts are None when they
    could not be scrubbed: then only lengths and keyed hashes are kept. `scrubber` names what took personal data out. `before_scrubbed`
    is what stood before the prompt, as JSON of history, role and tools; None if nothing did. `sources` are the ids of what was looked up
    for the prompt, as a JSON list, the nearest last; None where nothing is.
    """

    id: str
    ts: float
    use_case: str
    version: str
    arm: str
    prompt_scrubbed: str | None
    answer_scrubbed: str | None
    prompt_tokens: int
    new_tokens: int
    latency_ms: float
    status: int
    valid: bool | None = None
    confidence: float | None = None
    user_hash: str | None = None
    prompt_characters: int = 0
    answer_characters: int = 0
    prompt_hash: str | None = None
    answer_hash: str | None = None
    scrubber: str = ""
    before_scrubbed: str | None = None
    sources: str | None = None


@dataclass(frozen=True)
class Feedback:
    """What one source (a person, a system) says of one answer; the last word of a source counts."""

    request_id: str
    thumb: Literal["up", "down"] | None = None
    corrected: str | None = None
    source: str = "user"


@dataclass(frozen=True)
class Logged:
    """A logged request with the feedback on it, newest last."""

    request: ServedRequest
    feedback: tuple[Feedback, ...] = ()

    def row(self) -> dict[str, Any]:
        """The plain row: the request's columns and the feedback as a list."""
        return {**asdict(self.request), "feedback": [asdict(said) for said in self.feedback]}


_COLUMNS = tuple(column.name for column in fields(ServedRequest))


@dataclass(frozen=True)
class TrafficLog:
    """The log in one folder; opening it creates nothing, the first write does."""

    path: Path

    @classmethod
    def at(cls, folder: Path) -> "TrafficLog":
        """The log of the endpoint whose state lies in `folder`."""
        return cls(path=folder / FILE)

    def append(self, rows: Sequence[ServedRequest]) -> None:
        """Write all rows in one transaction, or none.

        Raises:
            sqlite3.Error: the disk is full, the file is locked, or an id is there already.
        """
        marks = ", ".join("?" for _ in _COLUMNS)
        with self._writing() as connection:
            connection.executemany(f"INSERT INTO request ({', '.join(_COLUMNS)}) VALUES ({marks})", map(astuple, rows))

    def feedback(self, said: Feedback, *, ts: float | None = None) -> None:
        """Keep what was said; repeated by the same source it changes nothing, said differently it replaces the earlier.

        Raises:
            UnknownRequest: no such request in the log.
        """
        with self._writing() as connection:
            if connection.execute("SELECT 1 FROM request WHERE id = ?", (said.request_id,)).fetchone() is None:
                raise UnknownRequest(f"request {said.request_id!r}: not in the traffic log; want the `id` of an answer of this endpoint")
            connection.execute(
                "INSERT INTO feedback (request_id, ts, thumb, corrected, source) VALUES (?, ?, ?, ?, ?) ON CONFLICT (request_id, source)"
                " DO UPDATE SET ts = excluded.ts, thumb = excluded.thumb, corrected = excluded.corrected"
                " WHERE thumb IS NOT excluded.thumb OR corrected IS NOT excluded.corrected",
                (said.request_id, time.time() if ts is None else ts, said.thumb, said.corrected, said.source),
            )

    def drop(self, rows: int, *, reason: str) -> None:
        """Note that `rows` answered requests are missing from the log, and why."""
        with self._writing() as connection:
            connection.execute("INSERT INTO dropped (ts, rows, reason) VALUES (?, ?, ?)", (time.time(), rows, reason))

    def corrections(self) -> list[dict[str, str]]:
        """Rows of id, prompt, completion, version: requests that somebody gave the right answer to, oldest first.

        `before` is what stood before the prompt, as JSON, where anything did.
        Of several corrections of one request the latest counts. Requests whose prompt could not be scrubbed are not among them.
        """
        # SQLite takes the bare columns of a group from the row that holds its MAX.
        found = self._read(
            "SELECT request.id, prompt_scrubbed AS prompt, corrected AS completion, version, COALESCE(before_scrubbed, '') AS before,"
            " MAX(feedback.ts) FROM request"
            " JOIN feedback ON feedback.request_id = request.id WHERE corrected IS NOT NULL AND prompt_scrubbed IS NOT NULL"
            " GROUP BY request.id ORDER BY request.ts, request.id"
        )
        names = ("id", "prompt", "completion", "version", "before")
        return [{name: row[name] for name in names if name != "before" or row[name]} for row in found]

    def window(self, last: int, *, arm: str = CHAMPION, versions: Iterable[str] | None = None, since: float = 0.0) -> list[Logged]:
        """The last requests that one arm received, oldest first, with their feedback.

        Args:
            last: at most so many.
            arm: only the champion's requests say what production looks like.
            versions: of these model versions only; any by default.
            since: not older than this, in seconds since 1970.
        """
        wanted = None if versions is None else sorted(set(versions))
        of_versions = "" if wanted is None else f" AND version IN ({', '.join('?' for _ in wanted)})"
        found = self._read(
            f"SELECT * FROM request WHERE arm = ? AND ts >= ?{of_versions} ORDER BY ts DESC, rowid DESC LIMIT ?",
            (arm, since, *(wanted or ()), last),
        )
        said = self._feedback([row["id"] for row in found])
        return [Logged(request=_served(row), feedback=tuple(said.get(row["id"], ()))) for row in reversed(found)]

    def dropped(self, *, since: float = 0.0) -> int:
        """How many answered requests are missing from the log."""
        return sum(row["rows"] for row in self._read("SELECT rows FROM dropped WHERE ts >= ?", (since,)))

    def __len__(self) -> int:
        found = self._read("SELECT COUNT(*) AS rows FROM request")
        return found[0]["rows"] if found else 0

    def _feedback(self, ids: Sequence[str]) -> dict[str, list[Feedback]]:
        found: dict[str, list[Feedback]] = {}
        # A statement takes a few thousand values at most.
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            marks = ", ".join("?" for _ in part)
            query = f"SELECT request_id, thumb, corrected, source FROM feedback WHERE request_id IN ({marks}) ORDER BY ts"
            for row in self._read(query, tuple(part)):
                found.setdefault(row["request_id"], []).append(Feedback(**dict(row)))
        return found

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """Rows of a query; none when nothing was ever logged."""
        if not self.path.exists():
            return []
        address = f"{self.path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=WRITER_WAIT_SECONDS)) as connection:
            connection.row_factory = sqlite3.Row
            has_tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'dropped'").fetchone()
            if not has_tables:
                return []
            _add_new_columns(connection)
            return connection.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; the file and its tables are made at need."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=WRITER_WAIT_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            # A power cut may lose the last transactions, a crash of the process loses none; ten times as fast as FULL.
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_TABLES)
            _add_new_columns(connection)
            with connection:
                yield connection


def _add_new_columns(connection: sqlite3.Connection) -> None:
    """A log that an earlier version began gets the columns that came later."""
    for name in _NEW_COLUMNS:
        if not connection.execute("SELECT 1 FROM pragma_table_info('request') WHERE name = ?", (name,)).fetchone():
            connection.execute(f"ALTER TABLE request ADD COLUMN {name} TEXT")


def _served(row: sqlite3.Row) -> ServedRequest:
    values = {name: row[name] for name in _COLUMNS}
    return ServedRequest(**{**values, "valid": None if row["valid"] is None else bool(row["valid"])})
