"""Rows of one file, by its type: JSON Lines, JSON, CSV, Parquet, Excel.

What is wrong with one row breaks that row; what is wrong with the file raises `UnreadableSource` with what to do.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, assert_never
from zipfile import BadZipFile

from fine_tune_pipeline.guide.dataset.sources.convert import needs_password
from fine_tune_pipeline.guide.dataset.sources.files import SourceFile, UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.rows import Row, object_row, plain
from fine_tune_pipeline.spec.sources import CsvSource, ExcelSource, FileSource, JsonlSource, JsonSource, ParquetSource

SHOWN_CHARACTERS = 200
"""So much of a broken line is kept in its explanation; the quarantine holds all of it."""

LINE_BYTES = 16 * 2**20
"""A longer line breaks its row instead of filling the memory; it stays in the source."""

JSON_BYTES = 256 * 2**20
"""A JSON file is read whole, which takes some ten times its size; JSON Lines are read line by line."""

PARQUET_BUFFER_BYTES = 2**20

UNREADABLE_ROWS = 10
UNREADABLE_SHARE = 0.02
"""More rows than both in another encoding, and it is the file that has another one."""

_EXCEL_ERRORS = {"#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A"}
_UTF_16_MARKS = ("\udcff\udcfe", "\udcfe\udcff")
_DELIMITERS = {";": "';'", "\t": r"'\t'", "|": "'|'", ",": "','"}


def rows_of(file: SourceFile, source: FileSource, *, place: str) -> Iterator[Row]:
    """All rows of one file of a source.

    Args:
        place: names the file in errors.

    Raises:
        UnreadableSource: the file is not what its type says.
    """
    with file.open() as stream:
        yield from _rows(stream, source, place)


def _rows(stream: BinaryIO, source: FileSource, place: str) -> Iterator[Row]:
    if isinstance(source, JsonlSource):
        return _jsonl(stream, place=place)
    if isinstance(source, JsonSource):
        return _json(stream, records=source.records, place=place)
    if isinstance(source, CsvSource):
        return _csv(stream, source, place=place)
    if isinstance(source, ParquetSource):
        return _parquet(stream, place=place)
    if isinstance(source, ExcelSource):
        return _excel(stream, sheet=source.sheet, place=place)
    assert_never(source)


def _jsonl(stream: BinaryIO, *, place: str) -> Iterator[Row]:
    undecoded = number = 0
    for number, (line, rest) in enumerate(lines_of(stream), start=1):
        if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UnreadableSource(f"{place}: begins as UTF-16 does; save the file as UTF-8")
        shown = line[:SHOWN_CHARACTERS].decode("utf-8", errors="replace")
        if rest:
            problem = f"the line has {len(line) + rest:,} bytes, want at most {LINE_BYTES:,}; it begins as shown"
            yield Row(number, None, problem, shown)
        elif line.strip():
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                undecoded += 1
                raw = line.decode("utf-8", errors="replace").rstrip("\r\n")
                yield Row(number, None, f"not UTF-8 text ({error.reason} at {error.start})", raw)
            else:
                yield _json_row(number, text)
    check_undecoded(undecoded, number, wanted="UTF-8", remedy="save the file as UTF-8", place=place)


def lines_of(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line, of an over-long one its beginning and how many bytes follow."""
    while line := stream.readline(LINE_BYTES):
        rest = 0
        while not line.endswith(b"\n") and len(line) == LINE_BYTES and (more := stream.readline(LINE_BYTES)):
            rest += len(more)
            if more.endswith(b"\n"):
                break
        yield line, rest


def _json_row(number: int, line: str) -> Row:
    raw = line.rstrip("\r\n")
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Row(number, None, f"not JSON ({error.msg} at column {error.colno}); want one object a line", raw)
    except RecursionError:
        return Row(number, None, "nested too deeply to be read", raw)
    except ValueError as error:
        # A number of thousands of digits.
        return Row(number, None, f"holds what cannot be read ({error})", raw)
    # Only what is written with an escape can be no text.
    return object_row(number, value, raw) if "\\u" in line or not isinstance(value, dict) else Row(number, value)


def _json(stream: BinaryIO, *, records: str | None, place: str) -> Iterator[Row]:
    for number, item in enumerate(_records(json_value(stream, place=place), records, place=place), start=1):
        yield object_row(number, item, None)


def json_value(stream: BinaryIO, *, place: str) -> Any:
    """What a JSON file holds.

    Raises:
        UnreadableSource: it is none, or too large to be read whole.
    """
    content = stream.read(JSON_BYTES + 1)
    if len(content) > JSON_BYTES:
        raise UnreadableSource(
            f"{place}: has more than {JSON_BYTES:,} bytes, which JSON would need in memory at once; write it as JSON Lines "
            "(jq -c '.[]' file.json) and read it with type: jsonl"
        )
    try:
        return json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UnreadableSource(
            f"{place}: line {error.lineno} is not JSON ({error.msg} at column {error.colno}); one object a line is type: jsonl"
        ) from error
    except UnicodeDecodeError as error:
        raise UnreadableSource(f"{place}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except RecursionError as error:
        raise UnreadableSource(f"{place}: nested too deeply to be read") from error
    except ValueError as error:
        raise UnreadableSource(f"{place}: holds what cannot be read ({error})") from error


def check_undecoded(undecoded: int, rows: int, *, wanted: str, remedy: str, place: str) -> None:
    """Raise if so many rows are in another encoding that the file is."""
    if undecoded > max(UNREADABLE_ROWS, UNREADABLE_SHARE * rows):
        raise UnreadableSource(f"{place}: {undecoded} of {rows} rows are not {wanted}; {remedy}")


def _records(value: Any, path: str | None, *, place: str) -> list[Any]:
    for name in path.split(".") if path else ():
        if not isinstance(value, dict) or name not in value:
            seen = f"the keys {_listed(value)}" if isinstance(value, dict) else type(value).__name__
            raise UnreadableSource(f"{place}: records: there is no {name!r} of {path!r}; the file has {seen} there")
        value = value[name]
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = [name for name, item in value.items() if isinstance(item, list)]
        hint = f"write records: {lists[0]}" if len(lists) == 1 else "write records: with the key that holds the list"
        raise UnreadableSource(f"{place}: got an object with the keys {_listed(value)}, want a list of objects; {hint}")
    raise UnreadableSource(f"{place}: got {type(value).__name__}, want a list of objects")


def _csv(stream: BinaryIO, source: CsvSource, *, place: str) -> Iterator[Row]:
    csv.field_size_limit(LINE_BYTES)
    encoding = "utf-8-sig" if source.encoding == "utf-8" else source.encoding
    # What is no text of this encoding comes as lone surrogates, and breaks its row only.
    with io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, delimiter=source.delimiter, strict=True)
        try:
            yield from _csv_rows(reader, source, place=place)
        except csv.Error as error:
            raise UnreadableSource(f"{place}: line {reader.line_num} is not CSV ({error}); an unclosed quote is the usual cause") from error
        except UnicodeError as error:
            raise UnreadableSource(f"{place}: not {source.encoding} ({error}); write the encoding that the file has") from error


def _csv_rows(reader: Iterator[list[str]], source: CsvSource, *, place: str) -> Iterator[Row]:
    header = next(reader, [])
    _check_header(header, place=place, delimiter=source.delimiter)
    undecoded = number = 0
    for number, fields in enumerate(filter(None, reader), start=1):
        if _is_text(fields):
            yield _csv_row(number, fields, header)
        else:
            undecoded += 1
            problem = f"not {source.encoding} text; the bytes that are none are shown as \\udc.."
            yield Row(number, None, problem, json.dumps(fields))
    remedy = "write the encoding that the file has, such as encoding: cp1252, or save it as UTF-8"
    check_undecoded(undecoded, number, wanted=source.encoding, remedy=remedy, place=place)


def _check_header(header: Sequence[str], *, place: str, delimiter: str) -> None:
    if not header:
        raise UnreadableSource(f"{place}: the file is empty; want a header and rows")
    if header[0].startswith(_UTF_16_MARKS):
        raise UnreadableSource(f"{place}: begins as UTF-16 does; write encoding: utf-16, or save the file as UTF-8")
    if not _is_text(header):
        raise UnreadableSource(f"{place}: the header is not UTF-8; write the encoding that the file has, or save it as UTF-8")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UnreadableSource(f"{place}: column {twice[0]!r} stands twice in the header (delimiter {delimiter!r}); name each column once")
    other = [shown for sign, shown in _DELIMITERS.items() if len(header) == 1 and sign in header[0] and sign != delimiter]
    if other:
        raise UnreadableSource(f"{place}: the header is one column, {header[0]!r}; write delimiter: {other[0]}")


def _csv_row(number: int, fields: Sequence[str], header: Sequence[str]) -> Row:
    if len(fields) == len(header):
        return Row(number, dict(zip(header, fields, strict=True)))
    problem = f"{len(fields)} fields, the header has {len(header)}; an unquoted delimiter is the usual cause"
    return Row(number, None, problem, json.dumps(fields, ensure_ascii=False))


def _is_text(fields: Sequence[str]) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for field in fields if not field.isascii() for sign in field)


def _parquet(stream: BinaryIO, *, place: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Buffered page by page: by default a whole row group is in memory, which may be the whole file.
        with pq.ParquetFile(stream, pre_buffer=False, buffer_size=PARQUET_BUFFER_BYTES) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for columns in batch.to_pylist():
                    number += 1
                    yield Row(number, plain(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableSource(f"{place}: not a Parquet file, or not all of one ({str(error)[:SHOWN_CHARACTERS]})") from error


def _excel(stream: BinaryIO, *, sheet: str | None, place: str) -> Iterator[Row]:
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    if needs_password(stream):
        raise UnreadableSource(f"{place}: needs a password; save it without one")
    try:
        book = load_workbook(stream, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError, ValueError) as error:
        raise UnreadableSource(
            f"{place}: not an .xlsx workbook ({error}); save it as .xlsx without a password (.xls and protected files cannot be read)"
        ) from error
    if sheet is not None and sheet not in book.sheetnames:
        raise UnreadableSource(f"{place}: sheet: there is no {sheet!r}; the workbook has {', '.join(map(repr, book.sheetnames))}")
    page = book[sheet] if sheet is not None else book.worksheets[0]
    header: Sequence[str] | None = None
    for number, cells in enumerate(page.iter_rows(values_only=True), start=1):
        if all(cell is None for cell in cells):
            continue
        if header is None:
            header = _excel_header(cells, place=place)
        else:
            yield replace(_excel_row(number, cells, header), sheet=page.title)
    if header is None:
        raise UnreadableSource(f"{place}: the sheet {page.title!r} is empty; want a header and rows")


def _excel_header(cells: Sequence[Any], *, place: str) -> list[str]:
    names = ["" if cell is None else str(cell) for cell in cells]
    named = [name for name in names if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise UnreadableSource(f"{place}: column {twice[0]!r} stands twice in the header; name each column once")
    return names


def _excel_row(number: int, cells: Sequence[Any], header: Sequence[str]) -> Row:
    values = [*cells, *[None] * (len(header) - len(cells))]
    columns: Mapping[str, Any] = {name: plain(value) for name, value in zip(header, values, strict=False) if name}
    failed = [name for name, value in columns.items() if isinstance(value, str) and value in _EXCEL_ERRORS]
    row = Row(number, dict(columns))
    if failed:
        return replace(row, columns=None, problem=f"column {failed[0]!r} holds the error {columns[failed[0]]}", raw=json.dumps(columns))
    return row


def _listed(value: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(value)[:8])) or "none"
