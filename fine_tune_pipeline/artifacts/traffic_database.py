"""The database behind a traffic log: a SQLite file of one endpoint, or a PostgreSQL server that several share. The same tables in both."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    NullPool,
    QueuePool,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    literal_column,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.types import TypeEngine

WAIT_SECONDS = 10
"""How long a statement waits for another writer, or for a server that does not answer, before it counts as failed."""

CONNECT_SECONDS = 5
TABLES_LOCK = 7_420_116
"""PostgreSQL: two servers that start at once make the tables one after the other."""

_LATER_COLUMNS = {"request": ("before_scrubbed", "sources", "key_name"), "dropped": ("use_case",)}
"""That logs of earlier versions lack."""


class LogFailed(OSError):
    """The traffic log can't be read or written: the disk is full, the file is locked, the server is away."""


class NoDatabaseUrl(ValueError):
    """The environment variable that must hold the log's URL is not set, or holds none of PostgreSQL."""


@dataclass(frozen=True)
class Tables:
    """The tables of one log. `order` sorts requests of the same moment as they were written."""

    request: Table
    feedback: Table
    dropped: Table
    settled: Table
    order: Any

    @property
    def metadata(self) -> MetaData:
        return self.request.metadata


def _tables(*, shared: bool) -> Tables:
    """
    Args:
        shared: the database may hold other tables, so that these need names that tell what they are.
    """
    metadata, prefix = MetaData(), "traffic_" if shared else ""
    number: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")
    count: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
    numbered = [Column("seq", BigInteger, Identity(always=True))] if shared else []
    request = Table(
        f"{prefix}request", metadata,
        Column("id", Text, primary_key=True), Column("ts", number, nullable=False), Column("use_case", Text, nullable=False),
        Column("version", Text, nullable=False), Column("arm", Text, nullable=False),
        Column("prompt_scrubbed", Text), Column("answer_scrubbed", Text),
        Column("prompt_tokens", Integer, nullable=False), Column("new_tokens", Integer, nullable=False),
        Column("latency_ms", number, nullable=False), Column("status", Integer, nullable=False),
        Column("valid", Integer), Column("confidence", number), Column("user_hash", Text),
        Column("prompt_characters", Integer, nullable=False), Column("answer_characters", Integer, nullable=False),
        Column("prompt_hash", Text), Column("answer_hash", Text), Column("scrubber", Text, nullable=False),
        Column("before_scrubbed", Text), Column("sources", Text), Column("key_name", Text), *numbered, sqlite_strict=True,
    )  # fmt: skip
    Index(f"{prefix}request_by_time", request.c.ts)
    if shared:
        Index(f"{prefix}request_by_user", request.c.user_hash)
    feedback = Table(
        f"{prefix}feedback", metadata,
        Column("request_id", Text, ForeignKey(request.c.id), primary_key=True), Column("ts", number, nullable=False),
        Column("thumb", Text), Column("corrected", Text), Column("source", Text, primary_key=True), sqlite_strict=True,
    )  # fmt: skip
    dropped = Table(
        f"{prefix}dropped", metadata,
        Column("ts", number, nullable=False), Column("rows", Integer, nullable=False), Column("reason", Text, nullable=False),
        Column("use_case", Text), sqlite_strict=True,
    )  # fmt: skip
    server, answered = Column("server", Text, primary_key=True), Column("answered", count, nullable=False)
    settled = Table(f"{prefix}settled", metadata, server, answered, sqlite_strict=True)
    order = request.c.seq if shared else literal_column("rowid")
    return Tables(request=request, feedback=feedback, dropped=dropped, settled=settled, order=order)


class Database:
    """Transactions on one log; every error of the database comes as `LogFailed`, without its URL and without texts of users."""

    def __init__(self, url: URL, *, kept_open: bool = False) -> None:
        """
        Args:
            url: of SQLite, with a file, or of PostgreSQL.
            kept_open: whether a connection outlives its transaction: for the writer. The last one to leave a SQLite file copies its
                write-ahead log into it, which costs more than writing rows.
        """
        self.path = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
        self.tables = _tables(shared=self.path is None)
        self._password = url.password
        self._engine = _sqlite(url, kept_open=kept_open) if self.path is not None else _postgres(url, kept_open=kept_open)
        self._prepared = False
        self._file: tuple[int, int] | None = None

    @contextmanager
    def reading(self) -> Iterator[Connection | None]:
        """For queries; None when nothing was ever logged, and then nothing is made."""
        if self.path is not None and not self.path.exists():
            yield None
            return
        with self._told(), self._engine.connect() as connection:
            yield connection if self._has_tables(connection) else None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction; the file and its tables are made at need."""
        with self._told():
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._leave_removed_file(self.path)
            with self._engine.begin() as connection:
                self._make_tables(connection)
                yield connection

    @contextmanager
    def apart(self) -> Iterator[Connection]:
        """For statements that stand outside of transactions, such as giving room back."""
        with self._told(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    def close(self) -> None:
        """End the connections that were kept open."""
        self._engine.dispose()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            self._prepared = False
            # From None: the chain would quote the URL, which may hold a password.
            raise LogFailed(self._said(error)) from None

    def _said(self, error: SQLAlchemyError) -> str:
        said = (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
        return said.replace(str(self._password), "***") if self._password else said

    def _leave_removed_file(self, path: Path) -> None:
        """A connection that was kept open would go on writing to a file that somebody has taken away."""
        if not path.exists():
            self._file = None
            self._engine.dispose()
            return
        found = path.stat()
        if self._file is not None and self._file != (found.st_dev, found.st_ino):
            self._engine.dispose()
        self._file = found.st_dev, found.st_ino

    def _has_tables(self, connection: Connection) -> bool:
        if not inspect(connection).has_table(self.tables.dropped.name):
            return False
        self._add_later_columns(connection)
        return True

    def _make_tables(self, connection: Connection) -> None:
        if self._prepared and self._still_there(connection):
            return
        if self.path is None:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({TABLES_LOCK})"))
        self.tables.metadata.create_all(connection)
        self._add_later_columns(connection)
        self._prepared = True

    def _still_there(self, connection: Connection) -> bool:
        """A file may have been taken away, and this be a new one."""
        return self.path is None or connection.execute(text("SELECT 1 FROM sqlite_master WHERE name = 'settled'")).first() is not None

    def _add_later_columns(self, connection: Connection) -> None:
        for table in (self.tables.request, self.tables.dropped):
            there = {column["name"] for column in inspect(connection).get_columns(table.name)}
            for name in _LATER_COLUMNS[table.name.removeprefix("traffic_")]:
                if name not in there:
                    connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {name} TEXT"))


def sqlite_url(path: Path) -> URL:
    """Of the log's file."""
    return URL.create("sqlite", database=str(path.absolute()))


def postgres_url(variable: str, *, environment: Mapping[str, str] = os.environ) -> URL:
    """What an environment variable says.

    Raises:
        NoDatabaseUrl: names the variable, never the URL.
    """
    value = environment.get(variable)
    field = f"deployment.traffic.url_variable: {variable}"
    if not value:
        raise NoDatabaseUrl(f"{field} is not set; export it with the URL of the database, postgresql://user:password@host/database")
    try:
        url = make_url(value)
    except ArgumentError:
        # From None: its text quotes the URL, which may hold a password.
        raise NoDatabaseUrl(f"{field} holds no URL; want postgresql://user:password@host/database") from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise NoDatabaseUrl(f"{field}: got a URL of {url.get_backend_name()}, want one of postgresql; without it the log is a SQLite file")
    return url.set(drivername="postgresql+psycopg")


def _sqlite(url: URL, *, kept_open: bool) -> Engine:
    pool: dict[str, Any] = {"poolclass": QueuePool, "pool_size": 1} if kept_open else {"poolclass": NullPool}
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": WAIT_SECONDS, "check_same_thread": False}, **pool)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        if not connection.execute("PRAGMA page_count").fetchone()[0]:
            # Later it has no effect, and would wait for a writer.
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        # A power cut may lose the last transactions, a crash of the process loses none; ten times as fast as FULL.
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def _postgres(url: URL, *, kept_open: bool) -> Engine:
    limits = f"-c statement_timeout={WAIT_SECONDS * 1000} -c lock_timeout={WAIT_SECONDS * 1000}"
    bounds: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": WAIT_SECONDS * 1000}
    bounds |= {} if "options" in url.query else {"options": limits}
    pool: dict[str, Any] = {"poolclass": QueuePool, "pool_size": 1, "pool_pre_ping": True} if kept_open else {"poolclass": NullPool}
    try:
        return create_engine(url, hide_parameters=True, connect_args=bounds, **pool)
    except (NoSuchModuleError, ModuleNotFoundError):
        raise NoDatabaseUrl("PostgreSQL needs its driver: pip install 'fine_tune_pipeline[postgres]'") from None
