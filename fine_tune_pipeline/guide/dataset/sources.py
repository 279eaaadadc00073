"""Rows of a source as they lie there: JSON Lines, CSV, Parquet, SQL. A row that cannot be read is a broken row, not an error."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.spec.dataset import CsvSource, JsonlSource, ParquetSource, Source, SqlSource

SHOWN_CHARACTERS = 200
"""So much of a broken line is kept in its explanation; the quarantine holds all of it."""


class MissingSource(FileNotFoundError):
    """The file of a source is not there."""


class UnreadableSource(ValueError):
    """The file of a source is not what its type says."""


class NoDatabaseUrl(ValueError):
    """The environment variable that must hold a database URL is not set, or holds none."""


class FailedQuery(ValueError):
    """The database refused the query of a source."""


@dataclass(frozen=True)
class Row:
    """One row; `number` counts from 1 as the reader of the file would (for CSV without the header). `columns` is None if it is broken."""

    number: int
    columns: dict[str, Any] | None
    problem: str = ""
    raw: str = ""

    @property
    def content(self) -> dict[str, Any]:
        """The row as it came, for the quarantine and for its hash."""
        return {"line": self.raw} if self.columns is None else self.columns

    @property
    def sha256(self) -> str:
        return hashlib.sha256(_canonical(self.content).encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Opened:
    """A source whose content is known: `place` for error messages, `sha256` for the fingerprint, `rows` reads it."""

    source: Source
    name: str
    place: str
    sha256: str
    rows: Callable[[], Iterator[Row]]


def opened(source: Source, *, file: Callable[[str], Path], field: str) -> Opened:
    """Look at a source.

    Args:
        file: gives the place of a path of the use case.
        field: where the source stands in the YAML, such as `dataset.sources[0]`.

    Raises:
        MissingSource, UnreadableSource: names the field and the file.
        NoDatabaseUrl, FailedQuery: names the field and the variable, never the URL.
    """
    if isinstance(source, SqlSource):
        rows = _query(source, field=field)
        digest = hashlib.sha256("\n".join(row.sha256 for row in rows).encode("utf-8")).hexdigest()
        return Opened(source, source_name(source), f"{field} ({source.url_variable})", digest, lambda: iter(rows))
    path = file(source.path)
    place = f"{field} ({path})"
    if not path.is_file():
        raise MissingSource(f"{field}: {path} is not there; paths begin at the folder of the YAML file")
    return Opened(source, source_name(source), place, file_sha256(path), lambda: _read(source, path, place))


def source_name(source: Source) -> str:
    """The name of a source: the given one, else its type and place; never a whole path, which another machine would not share."""
    if source.name is not None:
        return source.name
    return f"sql:{source.url_variable}" if isinstance(source, SqlSource) else f"{source.type}:{Path(source.path).name}"


def _read(source: JsonlSource | CsvSource | ParquetSource, path: Path, place: str) -> Iterator[Row]:
    if isinstance(source, JsonlSource):
        return _jsonl(path)
    if isinstance(source, CsvSource):
        return _csv(path, delimiter=source.delimiter, place=place)
    if isinstance(source, ParquetSource):
        return _parquet(path, place=place)
    assert_never(source)


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _json_row(number, line)


def _json_row(number: int, line: bytes) -> Row:
    raw = line.decode("utf-8", errors="replace").rstrip("\r\n")
    try:
        value = json.loads(line.decode("utf-8"))
        # A lone half of a surrogate pair (`"\ud83d"`) is legal JSON, but no text: nothing could write it.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        return Row(number, None, f"not JSON ({error.msg} at column {error.colno}); want one object a line", raw)
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        return Row(number, None, f"not UTF-8 text ({error.reason} at {error.start})", raw)
    except RecursionError:
        return Row(number, None, "nested too deeply to be read", raw)
    if not isinstance(value, dict):
        return Row(number, None, f"got {type(value).__name__}, want an object", raw)
    return Row(number, value)


def _csv(path: Path, *, delimiter: str, place: str) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableSource(f"{place}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        _check_header(header, place=place, delimiter=delimiter)
        for number, fields in enumerate(filter(None, reader), start=1):
            yield _csv_row(number, fields, header)
    except csv.Error as error:
        raise UnreadableSource(f"{place}: line {reader.line_num} is not CSV ({error}); an unclosed quote is the usual cause") from error


def _check_header(header: list[str], *, place: str, delimiter: str) -> None:
    if not header:
        raise UnreadableSource(f"{place}: the file is empty; want a header and rows")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UnreadableSource(f"{place}: column {twice[0]!r} stands twice in the header (delimiter {delimiter!r}); name each column once")


def _csv_row(number: int, fields: list[str], header: list[str]) -> Row:
    if len(fields) != len(header):
        raw = json.dumps(fields, ensure_ascii=False)
        return Row(number, None, f"{len(fields)} fields, the header has {len(header)}; an unquoted delimiter is the usual cause", raw)
    return Row(number, dict(zip(header, fields, strict=True)))


def _parquet(path: Path, *, place: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for columns in batch.to_pylist():
                    number += 1
                    yield Row(number, _plain(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableSource(f"{place}: not a Parquet file ({str(error)[:SHOWN_CHARACTERS]})") from error


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
    try:
        with engine.connect() as connection:
            found = [_plain(dict(row)) for row in connection.execute(text(source.query)).mappings()]
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).splitlines()[0]
        hidden = said.replace(str(url.password), "***") if url.password else said
        raise FailedQuery(f"{field}.query: the database at {source.url_variable} refused it: {hidden}; query: {source.query}") from None
    finally:
        engine.dispose()
    return [Row(number, columns) for number, columns in enumerate(sorted(found, key=_canonical), start=1)]


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: dates and decimals as text, bytes as hexadecimal, a number that is none as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
