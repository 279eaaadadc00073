"""Rows of a query, through SQLAlchemy: read by a cursor of the server, sorted on disk, so that memory does not grow with their number."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.guide.dataset.sources.rows import Row, canonical, object_row, plain
from fine_tune_pipeline.spec.sources import SqlSource

if TYPE_CHECKING:
    from sqlalchemy import Engine, TextClause

FETCHED_ROWS = 1000
"""Rows that a database sends at a time."""


class NoDatabaseUrl(ValueError):
    """The environment variable that must hold a database URL is not set, or holds none."""


class FailedQuery(ValueError):
    """The database refused the query of a source."""


@dataclass(frozen=True)
class Answer:
    """The rows of a query in a file of their own, which goes with this object."""

    copy: sqlite3.Connection

    @classmethod
    def of(cls, found: Iterable[dict[str, Any]]) -> "Answer":
        """Take in rows in any order: a query promises none, and the same rows must give the same artifact."""
        # A database without a name lies in a temporary file, which nobody else sees and which goes when it is closed.
        copy = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        copy.execute("BEGIN")
        copy.execute("CREATE TABLE came (content BLOB, body TEXT)")
        rows = ((canonical(columns).encode("utf-8", "surrogatepass"), json.dumps(columns)) for columns in found)
        copy.executemany("INSERT INTO came VALUES (?, ?)", rows)
        copy.execute("CREATE TABLE sorted AS SELECT content, body FROM came ORDER BY content, body")
        copy.execute("DROP TABLE came")
        copy.execute("COMMIT")
        return cls(copy)

    def rows(self) -> Iterator[Row]:
        """All rows, in the order of their contents."""
        for number, (body,) in enumerate(self.copy.execute("SELECT body FROM sorted ORDER BY rowid"), start=1):
            yield object_row(number, json.loads(body), body)

    def sha256(self) -> str:
        """Of all rows."""
        digest = hashlib.sha256()
        for place, (content,) in enumerate(self.copy.execute("SELECT content FROM sorted ORDER BY rowid")):
            digest.update(b"\n" * bool(place) + hashlib.sha256(content).hexdigest().encode("ascii"))
        return digest.hexdigest()


def asked(source: SqlSource, *, field: str) -> Answer:
    """What the database answers.

    Raises:
        NoDatabaseUrl, FailedQuery: names the field and the variable, never the URL.
    """
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    engine = _engine(source, field=field)
    statement = text(source.query)
    _check_parameters(statement, source, field=field)
    try:
        return Answer.of(_fetched(engine, statement, source.parameters))
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).splitlines()[0]
        password = engine.url.password
        hidden = said.replace(str(password), "***") if password else said
        raise FailedQuery(f"{field}.query: the database at {source.url_variable} refused it: {hidden}; query: {source.query}") from None
    finally:
        engine.dispose()


def _engine(source: SqlSource, *, field: str) -> "Engine":
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    value = os.environ.get(source.url_variable)
    if not value:
        raise NoDatabaseUrl(f"{field}.url_variable: {source.url_variable} is not set; export it with the URL of the database")
    try:
        return create_engine(value, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        # From None: the text of these errors quotes the URL, which may hold a password.
        raise NoDatabaseUrl(
            f"{field}.url_variable: {source.url_variable} is no database URL ({type(error).__name__}); want dialect://… and its driver"
        ) from None


def _check_parameters(statement: "TextClause", source: SqlSource, *, field: str) -> None:
    wanted, given = set(statement.compile().params), set(source.parameters)
    if wanted != given:
        raise FailedQuery(
            f"{field}.parameters: got {_named(given)}, want the :names of the query, {_named(wanted)}; "
            "a colon that begins no parameter is written \\: in the query"
        )


def _fetched(engine: "Engine", statement: "TextClause", parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with engine.connect() as connection:
        # Fetched in parts by a cursor of the server, where the database has one.
        answer = connection.execution_options(yield_per=FETCHED_ROWS).execute(statement, parameters)
        for row in answer.mappings():
            yield plain(dict(row))


def _named(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
