"""Rows of every type of source, the broken ones among them, and errors that say where."""

import sqlite3
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fine_tune_pipeline.guide.dataset.sources import (
    FailedQuery,
    MissingSource,
    NoDatabaseUrl,
    Opened,
    UnreadableSource,
    opened,
    source_name,
)
from fine_tune_pipeline.spec.dataset import CsvSource, JsonlSource, ParquetSource, Source, SqlSource


def open_at(folder: Path, source: Source) -> Opened:
    return opened(source, file=lambda path: folder / path, field="dataset.sources[0]")


def columns(source: Opened) -> list[dict | None]:
    return [row.columns for row in source.rows()]


def test_jsonl_gives_objects_and_keeps_broken_lines_with_their_number_and_reason(tmp_path):
    lines = [b'\xef\xbb\xbf{"text": "a"}', b"", b"not json", b"[1]", b'{"text": "\xff"}', b'{"text": "\\ud83d"}', b'{"text": "b"}']
    (tmp_path / "rows.jsonl").write_bytes(b"\r\n".join(lines))
    rows = list(open_at(tmp_path, JsonlSource(type="jsonl", path="rows.jsonl")).rows())
    assert [row.number for row in rows] == [1, 3, 4, 5, 6, 7]
    assert [row.columns for row in rows] == [{"text": "a"}, None, None, None, None, {"text": "b"}]
    assert "column 1" in rows[1].problem
    assert "list" in rows[2].problem
    assert "UTF-8" in rows[3].problem
    assert "UTF-8" in rows[4].problem
    assert rows[1].content == {"line": "not json"}


def test_csv_uses_its_header_and_delimiter_and_keeps_rows_of_another_width(tmp_path):
    (tmp_path / "rows.csv").write_text('text;label\n"one; two";x\nthree\n\nfour;y\n', encoding="utf-8")
    source = CsvSource(type="csv", path="rows.csv", delimiter=";")
    rows = list(open_at(tmp_path, source).rows())
    assert [row.columns for row in rows] == [{"text": "one; two", "label": "x"}, None, {"text": "four", "label": "y"}]
    assert "1 fields, the header has 2" in rows[1].problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"text,text\na,b\n", "'text' stands twice"),
        (b'text,label\n"a,b\n', "unclosed quote"),
        (b"text\n\xff\n", "UTF-8"),
    ],
)
def test_a_csv_file_that_is_none_is_refused(tmp_path, content, said):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(UnreadableSource, match=said) as error:
        list(open_at(tmp_path, CsvSource(type="csv", path="rows.csv")).rows())
    assert "dataset.sources[0]" in str(error.value)


def test_parquet_values_become_what_json_can_hold(tmp_path):
    table = pa.table(
        {
            "day": [date(2026, 1, 2)],
            "price": [Decimal("1.50")],
            "raw": [b"\x01\xff"],
            "missing": pa.array([None], pa.string()),
            "nan": [float("nan")],
            "nested": [{"a": [1, 2]}],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = columns(open_at(tmp_path, ParquetSource(type="parquet", path="rows.parquet")))
    assert rows == [{"day": "2026-01-02", "price": "1.50", "raw": "01ff", "missing": None, "nan": None, "nested": {"a": [1, 2]}}]


def test_a_parquet_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UnreadableSource, match="not a Parquet file"):
        list(open_at(tmp_path, ParquetSource(type="parquet", path="rows.parquet")).rows())


def test_a_missing_file_is_named_with_its_field(tmp_path):
    with pytest.raises(MissingSource, match=r"dataset\.sources\[0\].*nothing\.jsonl"):
        open_at(tmp_path, JsonlSource(type="jsonl", path="nothing.jsonl"))


def database(path: Path, rows: list[tuple[int, str]]) -> str:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE message (id INTEGER, body TEXT)")
        connection.executemany("INSERT INTO message VALUES (?, ?)", rows)
    return f"sqlite:///{path}"


def sql(query: str = "SELECT id, body FROM message") -> SqlSource:
    return SqlSource(type="sql", url_variable="TEST_DATABASE", query=query)


def test_sql_rows_are_the_same_whatever_order_the_database_gives_them_in(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(1, "a"), (2, "b")]))
    one = open_at(tmp_path, sql())
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "two.db", [(2, "b"), (1, "a")]))
    two = open_at(tmp_path, sql())
    assert columns(one) == columns(two) == [{"body": "a", "id": 1}, {"body": "b", "id": 2}]
    assert one.sha256 == two.sha256


def test_sql_content_decides_the_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(1, "a")]))
    before = open_at(tmp_path, sql()).sha256
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "two.db", [(1, "A")]))
    assert open_at(tmp_path, sql()).sha256 != before


def test_an_unset_url_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_DATABASE", raising=False)
    with pytest.raises(NoDatabaseUrl, match=r"dataset\.sources\[0\]\.url_variable: TEST_DATABASE is not set"):
        open_at(tmp_path, sql())


@pytest.mark.parametrize("url", ["hunter2", "nodialect://user:hunter2@host/db", "sqlite://user:hunter2@host/db"])
def test_a_useless_url_is_refused_without_quoting_it(tmp_path, monkeypatch, url):
    monkeypatch.setenv("TEST_DATABASE", url)
    with pytest.raises((NoDatabaseUrl, FailedQuery)) as error:
        open_at(tmp_path, sql())
    assert "hunter2" not in str(error.value)
    assert error.value.__suppress_context__


def test_a_query_that_the_database_refuses_is_quoted_with_its_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", []))
    with pytest.raises(FailedQuery, match=r"no such column: absent.*SELECT absent"):
        open_at(tmp_path, sql("SELECT absent FROM message"))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (JsonlSource(type="jsonl", path="/somewhere/else/rows.jsonl"), "jsonl:rows.jsonl"),
        (JsonlSource(type="jsonl", path="rows.jsonl", name="tickets"), "tickets"),
        (sql(), "sql:TEST_DATABASE"),
    ],
)
def test_a_source_is_named_by_type_and_place_but_never_by_a_whole_path(source, name):
    assert source_name(source) == name
