"""Rows leave the traffic log: those that are old, and those of one user. What is deleted cannot be read from the file any more."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, select, text

from fine_tune_pipeline.artifacts.traffic import VALUES_IN_STATEMENT, TrafficLog

INCREMENTAL = 2
"""SQLite's number for a file that can give room back in parts."""


@dataclass(frozen=True)
class Removed:
    """What was deleted: ids of requests, and how much feedback."""

    requests: tuple[str, ...] = ()
    feedback: int = 0


def of_user(log: TrafficLog, *, user_hash: str, name: str) -> Removed:
    """What would go with a user: requests made for them, feedback on these, and feedback that gives their name as its source."""
    found = tuple(_ids(log, log.tables.request.c.user_hash == user_hash))
    said = log.tables.feedback
    with log.database.reading() as connection:
        if connection is None:
            return Removed()
        of_both = set(connection.execute(select(said.c.request_id, said.c.source).where(_said_by(log, name))).all())
        for part in _parts(found):
            of_both |= set(connection.execute(select(said.c.request_id, said.c.source).where(said.c.request_id.in_(part))).all())
    return Removed(requests=found, feedback=len(of_both))


def forget(log: TrafficLog, *, user_hash: str, name: str) -> Removed:
    """Delete all that `of_user` finds.

    Raises:
        LogFailed: nothing more could be deleted; what is gone is gone.
    """
    found = _delete(log, log.tables.request.c.user_hash == user_hash)
    said = 0
    if _exists(log):
        with log.database.writing() as connection:
            _overwrite(log, connection)
            said = connection.execute(delete(log.tables.feedback).where(_said_by(log, name))).rowcount
    _give_room_back(log)
    return Removed(requests=found.requests, feedback=found.feedback + said)


def expire(log: TrafficLog, *, before: float) -> Removed:
    """Delete requests that are older than `before` (seconds since 1970), and the feedback on them; the counts of missing rows stay.

    Raises:
        LogFailed: nothing more could be deleted; what is gone is gone.
    """
    found = _delete(log, log.tables.request.c.ts < before)
    if found.requests:
        _give_room_back(log)
    return found


def _delete(log: TrafficLog, condition: "ColumnElement[bool]") -> Removed:
    """In parts, so that the endpoint, which writes meanwhile, never waits for long."""
    request, said = log.tables.request, log.tables.feedback
    ids, feedback = tuple(_ids(log, condition)), 0
    for part in _parts(ids):
        with log.database.writing() as connection:
            _overwrite(log, connection)
            feedback += connection.execute(delete(said).where(said.c.request_id.in_(part))).rowcount
            connection.execute(delete(request).where(request.c.id.in_(part)))
    return Removed(requests=ids, feedback=feedback)


def _ids(log: TrafficLog, condition: "ColumnElement[bool]") -> Iterator[str]:
    request = log.tables.request
    with log.database.reading() as connection:
        if connection is not None:
            yield from connection.execute(select(request.c.id).where(condition, log.own(request))).scalars()


def _said_by(log: TrafficLog, name: str) -> "ColumnElement[bool]":
    request, said = log.tables.request, log.tables.feedback
    return (said.c.source == name) & said.c.request_id.in_(select(request.c.id).where(log.own(request)))


def _exists(log: TrafficLog) -> bool:
    with log.database.reading() as connection:
        return connection is not None


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), VALUES_IN_STATEMENT):
        yield ids[start : start + VALUES_IN_STATEMENT]


def _overwrite(log: TrafficLog, connection: Connection) -> None:
    """SQLite leaves deleted texts in the file, unless it is told to write zeros over them."""
    if log.database.path is not None:
        connection.execute(text("PRAGMA secure_delete=ON"))


def _give_room_back(log: TrafficLog) -> None:
    """The file shrinks, and the write-ahead log, which holds the pages as they were, is emptied. PostgreSQL does so by itself."""
    if log.database.path is None or not log.database.path.exists():
        return
    with log.database.apart() as connection:
        kept = connection.connection.driver_connection
        assert kept is not None
        if connection.execute(text("PRAGMA auto_vacuum")).scalar() != INCREMENTAL:
            # A log of an earlier version: made anew once.
            kept.executescript("PRAGMA auto_vacuum=INCREMENTAL; VACUUM")
        kept.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
