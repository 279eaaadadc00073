"""Sources of rows: files of every type, queries of a database. A row that cannot be read is a broken row, not an error."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from fine_tune_pipeline.guide.dataset.files import SourceFile, files_at
from fine_tune_pipeline.guide.dataset.readers import rows_of
from fine_tune_pipeline.guide.dataset.rows import Row, canonical, plain
from fine_tune_pipeline.spec.dataset import FileSource, Source, SqlSource

SUFFIXES = {"jsonl": (".jsonl", ".ndjson"), "json": (".json",), "csv": (".csv", ".tsv"), "parquet": (".parquet",), "excel": (".xlsx",)}
"""Of a folder, the files with these endings are read."""

FETCHED_ROWS = 1000
"""Rows that a database sends at a time."""


class NoDatabaseUrl(ValueError):
    """The environment variable that must hold a database URL is not set, or holds none."""


class FailedQuery(ValueError):
    """The database refused the query of a source."""


@dataclass(frozen=True)
class Opened:
    """A source whose content is known: `place` for error messages, `sha256` for the fingerprint, `rows` reads it."""

    source: Source
    name: str
    place: str
    sha256: str
    rows: Callable[[], Iterator[Row]]


def opened(source: Source, *, locate: Callable[[str], str], field: str) -> Opened:
    """Look at a source.

    Args:
        locate: gives the place of a path of the use case, a URL or an absolute path.
        field: where the source stands in the YAML, such as `dataset.sources[0]`.

    Raises:
        MissingSource, UnreadableSource: names the field and the file.
        NoDatabaseUrl, FailedQuery: names the field and the variable, never the URL.
    """
    if isinstance(source, SqlSource):
        rows = _query(source, field=field)
        digest = hashlib.sha256("\n".join(row.sha256 for row in rows).encode("utf-8")).hexdigest()
        return Opened(source, source_name(source), f"{field} ({source.url_variable})", digest, lambda: iter(rows))
    where = locate(source.path)
    files = files_at(where, suffixes=SUFFIXES[source.type], field=field)
    return Opened(source, source_name(source), f"{field} ({where})", _sha256(files), lambda: _file_rows(files, source, field=field))


def source_name(source: Source) -> str:
    """The name of a source: the given one, else its type and place; never a whole path, which another machine would not share."""
    if source.name is not None:
        return source.name
    return f"sql:{source.url_variable}" if isinstance(source, SqlSource) else f"{source.type}:{PurePath(source.path).name}"


def _sha256(files: Sequence[SourceFile]) -> str:
    """Of one file its own; of several that of theirs in their order, since it decides the order of the rows."""
    digests = [file.sha256() for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()


def _file_rows(files: Sequence[SourceFile], source: FileSource, *, field: str) -> Iterator[Row]:
    for file in files:
        for row in rows_of(file, source, place=f"{field} ({file.path})"):
            yield row if len(files) == 1 else replace(row, file=file.name)


def _query(source: SqlSource, *, field: str) -> list[Row]:
    """All rows, ordered by their content: a query promises no order, and the same rows must give the same artifact."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    value = os.environ.get(source.url_variable)
    if not value:
        raise NoDatabaseUrl(f"{field}.url_variable: {source.url_variable} is not set; export it with the URL of the database")
    try:
        url = make_url(value)
        engine = create_engine(url, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        # From None: the text of these errors quotes the URL, which may hold a password.
        raise NoDatabaseUrl(
            f"{field}.url_variable: {source.url_variable} is no database URL ({type(error).__name__}); want dialect://… and its driver"
        ) from None
    statement = text(source.query)
    wanted, given = set(statement.compile().params), set(source.parameters)
    if wanted != given:
        raise FailedQuery(
            f"{field}.parameters: got {_named(given)}, want the :names of the query, {_named(wanted)}; "
            "a colon that begins no parameter is written \\: in the query"
        )
    try:
        with engine.connect() as connection:
            # Fetched in parts by a cursor of the server, where the database has one.
            answer = connection.execution_options(yield_per=FETCHED_ROWS).execute(statement, source.parameters)
            found = [plain(dict(row)) for row in answer.mappings()]
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).splitlines()[0]
        hidden = said.replace(str(url.password), "***") if url.password else said
        raise FailedQuery(f"{field}.query: the database at {source.url_variable} refused it: {hidden}; query: {source.query}") from None
    finally:
        engine.dispose()
    return [Row(number, columns) for number, columns in enumerate(sorted(found, key=canonical), start=1)]


def _named(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
