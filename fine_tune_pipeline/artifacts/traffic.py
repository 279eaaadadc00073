"""The traffic log of an endpoint: what was asked and answered, scrubbed before it comes here, and what people said of it.

Written by the endpoint, read by steps 3 and 8. By default `<folder>/traffic.sqlite` (write-ahead log: readers never wait for the writer);
with `deployment.traffic.url_variable` a PostgreSQL database, which several replicas, and several use cases, share.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, Self

from sqlalchemy import ColumnElement, Connection, Executable, RowMapping, and_, bindparam, func, insert, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

from fine_tune_pipeline.artifacts.traffic_database import Database, Tables, postgres_url, sqlite_url
from fine_tune_pipeline.spec.traffic import TrafficSpec

FILE = "traffic.sqlite"
CHAMPION = "champion"
VALUES_IN_STATEMENT = 500
"""A statement takes a few thousand values at most."""


class UnknownRequest(Exception):
    """Feedback names a request that is not in the log."""


@dataclass(frozen=True)
class ServedRequest:
    """One request and its answer, as the log keeps it.

    `ts` in seconds since 1970 (UTC); `latency_ms` from arrival to answer; `status` as in HTTP; `valid` says whether the answer fits the
    task, None if nobody can tell; `confidence` is the mean log-probability (nats) of the answer's tokens. The texts are None when they
    could not be scrubbed: then only lengths and keyed hashes are kept. `scrubber` names what took personal data out. `before_scrubbed`
    is what stood before the prompt, as JSON of history, role and tools; None if nothing did. `sources` are the ids of what was looked up
    for the prompt, as a JSON list, the nearest last; None where nothing is. `key_name` is the name of the API key that was used, never the
    key; None for the endpoint's own two.
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
    key_name: str | None = None


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


@dataclass(frozen=True)
class Settled:
    """How many answers of one server are in the log, or counted as missing from it, once a transaction is done."""

    server: str
    answered: int


_COLUMNS = tuple(column.name for column in fields(ServedRequest))
_in_order = attrgetter(*_COLUMNS)
_LATE_COLUMNS = ("prompt_scrubbed", "answer_scrubbed", "before_scrubbed", "prompt_hash", "answer_hash", "scrubber")
"""What scrubbing brings: the rest of a row is known when the answer is given."""


class TrafficLog:
    """The log of one endpoint; opening it creates nothing, the first write does."""

    def __init__(self, database: Database, *, use_case: str | None = None) -> None:
        """
        Args:
            use_case: whose rows are read, where a database holds those of several.
        """
        self.database = database
        self._use_case = use_case

    @classmethod
    def at(cls, folder: Path, *, kept_open: bool = False) -> Self:
        """The SQLite log of the endpoint whose state lies in `folder`; `kept_open` for its writer."""
        return cls(Database(sqlite_url(folder / FILE), kept_open=kept_open))

    @classmethod
    def of(
        cls, traffic: TrafficSpec, *, use_case: str, folder: Path, kept_open: bool = False, environment: Mapping[str, str] = os.environ
    ) -> Self:
        """The log that a use case names.

        Args:
            folder: of the endpoint's state.
            kept_open: for its writer.

        Raises:
            NoDatabaseUrl: names the variable that must hold the URL.
        """
        if traffic.url_variable is None:
            return cls.at(folder, kept_open=kept_open)
        return cls(Database(postgres_url(traffic.url_variable, environment=environment), kept_open=kept_open), use_case=use_case)

    @property
    def path(self) -> Path:
        """The file of a SQLite log."""
        assert self.database.path is not None
        return self.database.path

    @property
    def tables(self) -> Tables:
        return self.database.tables

    def append(self, rows: Sequence[ServedRequest]) -> None:
        """Write all rows in one transaction, or none.

        Raises:
            LogFailed: the disk is full, the file is locked, the server is away, or an id is there already.
        """
        self.write(rows)

    def write(
        self,
        rows: Sequence[ServedRequest] = (),
        *,
        scrubbed: Sequence[ServedRequest] = (),
        dropped: Mapping[str, int] | None = None,
        settled: Settled | None = None,
    ) -> None:
        """Write everything in one transaction, or nothing.

        Args:
            rows: new ones.
            scrubbed: rows that are in the log without their texts, which they get now.
            dropped: reason -> answered requests that are missing from the log.
            settled: what the server has accounted for with this.

        Raises:
            LogFailed: see `append`.
        """
        tables = self.tables
        with self.database.writing() as connection:
            if rows:
                # By the driver itself: SQLAlchemy's own way costs more than the database.
                connection.exec_driver_sql(self._new_rows, [_values(row) for row in rows])
            if scrubbed:
                late = update(tables.request).where(tables.request.c.id == bindparam("of")).values(_bound(_LATE_COLUMNS))
                connection.execute(late, [_late_values(row) for row in scrubbed])
            for reason, number in (dropped or {}).items():
                self._drop(connection, number, reason=reason)
            if settled is not None:
                self._settle(connection, settled)

    def feedback(self, said: Feedback, *, ts: float | None = None) -> None:
        """Keep what was said; repeated by the same source it changes nothing, said differently it replaces the earlier.

        Raises:
            UnknownRequest: no such request in the log.
            LogFailed: it was not kept.
        """
        request, table = self.tables.request, self.tables.feedback
        source = plain(said.source)
        new = self._insert(table).values(
            request_id=said.request_id,
            ts=time.time() if ts is None else ts,
            thumb=said.thumb,
            corrected=plain(said.corrected),
            source=source,
        )
        changed = table.c.thumb.is_distinct_from(new.excluded.thumb) | table.c.corrected.is_distinct_from(new.excluded.corrected)
        values = {name: new.excluded[name] for name in ("ts", "thumb", "corrected")}
        with self.database.writing() as connection:
            known = select(request.c.id).where(request.c.id == plain(said.request_id), self.own(request))
            if connection.execute(known).first() is None:
                raise UnknownRequest(f"request {said.request_id!r}: not in the traffic log; want the `id` of an answer of this endpoint")
            connection.execute(new.on_conflict_do_update(index_elements=["request_id", "source"], set_=values, where=changed))

    def drop(self, rows: int, *, reason: str) -> None:
        """Note that `rows` answered requests are missing from the log, and why."""
        self.write(dropped={reason: rows})

    def settled(self, server: str) -> int | None:
        """How many answers of this server the log accounts for; None if it has never heard of it."""
        table = self.tables.settled
        with self.database.reading() as connection:
            # A log of an earlier version has no such table before the first write.
            if connection is None or not connection.dialect.has_table(connection, table.name):
                return None
            return connection.execute(select(table.c.answered).where(table.c.server == server)).scalar()

    def corrections(self) -> list[dict[str, str]]:
        """Rows of id, prompt, completion, version: requests that somebody gave the right answer to, oldest first.

        `before` is what stood before the prompt, as JSON, where anything did.
        Of several corrections of one request the latest counts. Requests whose prompt could not be scrubbed are not among them.
        """
        request, said = self.tables.request, self.tables.feedback
        latest = func.row_number().over(partition_by=said.c.request_id, order_by=(said.c.ts.desc(), said.c.source)).label("place")
        corrected = select(said.c.request_id, said.c.corrected, latest).where(said.c.corrected.is_not(None)).subquery()
        found = self._read(
            select(
                request.c.id,
                request.c.prompt_scrubbed.label("prompt"),
                corrected.c.corrected.label("completion"),
                request.c.version,
                func.coalesce(request.c.before_scrubbed, "").label("before"),
            )
            .join(corrected, and_(corrected.c.request_id == request.c.id, corrected.c.place == 1))
            .where(request.c.prompt_scrubbed.is_not(None), self.own(request))
            .order_by(request.c.ts, request.c.id)
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
        request = self.tables.request
        of_versions = true() if versions is None else request.c.version.in_(sorted(set(versions)))
        found = self._read(
            select(*(request.c[name] for name in _COLUMNS))
            .where(request.c.arm == arm, request.c.ts >= since, of_versions, self.own(request))
            .order_by(request.c.ts.desc(), self.tables.order.desc())
            .limit(last)
        )
        said = self._feedback([row["id"] for row in found])
        return [Logged(request=_served(row), feedback=tuple(said.get(row["id"], ()))) for row in reversed(found)]

    def dropped(self, *, since: float = 0.0) -> int:
        """How many answered requests are missing from the log."""
        table = self.tables.dropped
        found = self._read(select(func.coalesce(func.sum(table.c.rows), 0).label("rows")).where(table.c.ts >= since, self.own(table)))
        return int(found[0]["rows"]) if found else 0

    def close(self) -> None:
        """End the connections that were kept open."""
        self.database.close()

    def __len__(self) -> int:
        request = self.tables.request
        found = self._read(select(func.count().label("rows")).select_from(request).where(self.own(request)))
        return int(found[0]["rows"]) if found else 0

    @cached_property
    def _new_rows(self) -> str:
        mark = "%s" if self.database.path is None else "?"
        return f"INSERT INTO {self.tables.request.name} ({', '.join(_COLUMNS)}) VALUES ({', '.join([mark] * len(_COLUMNS))})"

    def _drop(self, connection: Connection, rows: int, *, reason: str) -> None:
        connection.execute(
            insert(self.tables.dropped), {"ts": time.time(), "rows": rows, "reason": plain(reason), "use_case": self._use_case}
        )

    def _settle(self, connection: Connection, settled: Settled) -> None:
        new = self._insert(self.tables.settled).values(server=settled.server, answered=settled.answered)
        connection.execute(new.on_conflict_do_update(index_elements=["server"], set_={"answered": new.excluded.answered}))

    def _insert(self, table: Any) -> "sqlite.Insert | postgresql.Insert":
        """One that can say what a row does that is there already."""
        return postgresql.insert(table) if self.database.path is None else sqlite.insert(table)

    def own(self, table: Any) -> "ColumnElement[bool]":
        """Rows of this use case, where the database holds those of several."""
        return true() if self._use_case is None else table.c.use_case == self._use_case

    def _feedback(self, ids: Sequence[str]) -> dict[str, list[Feedback]]:
        table = self.tables.feedback
        found: dict[str, list[Feedback]] = {}
        for start in range(0, len(ids), VALUES_IN_STATEMENT):
            part = ids[start : start + VALUES_IN_STATEMENT]
            said = select(table.c.request_id, table.c.thumb, table.c.corrected, table.c.source).where(table.c.request_id.in_(part))
            for row in self._read(said.order_by(table.c.ts)):
                found.setdefault(row["request_id"], []).append(Feedback(**dict(row)))
        return found

    def _read(self, query: Executable) -> Sequence[RowMapping]:
        """Rows of a query; none when nothing was ever logged."""
        with self.database.reading() as connection:
            return [] if connection is None else connection.execute(query).mappings().all()


def plain(value: Any) -> Any:
    """A text as every database takes it: half characters and NUL, which JSON can bring, are replaced; other values stay."""
    if not isinstance(value, str):
        return value
    if not value.isascii():
        value = value.encode("utf-8", "replace").decode("utf-8")
    return value.replace("\x00", "\ufffd")


def _bound(names: Iterable[str]) -> dict[str, Any]:
    return {name: bindparam(f"new_{name}") for name in names}


def _values(row: ServedRequest) -> tuple[Any, ...]:
    return tuple(int(value) if value is True or value is False else plain(value) for value in _in_order(row))


def _late_values(row: ServedRequest) -> dict[str, Any]:
    return {"of": row.id, **{f"new_{name}": plain(getattr(row, name)) for name in _LATE_COLUMNS}}


def _served(row: RowMapping) -> ServedRequest:
    values = {name: row[name] for name in _COLUMNS}
    return ServedRequest(**{**values, "valid": None if row["valid"] is None else bool(row["valid"])})
