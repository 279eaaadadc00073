"""Rows of every type of source, the broken ones among them, and errors that say where."""

import gzip
import lzma
import random
import sqlite3
import tracemalloc
from contextlib import closing
from datetime import date
from decimal import Decimal
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import HfFileSystem, constants
from openpyxl import Workbook

from fine_tune_pipeline.guide.dataset.sources import readers
from fine_tune_pipeline.guide.dataset.sources.files import MissingSource, UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.opened import Opened, opened, source_name
from fine_tune_pipeline.guide.dataset.sources.queries import FailedQuery, NoDatabaseUrl
from fine_tune_pipeline.spec.dataset import CsvSource, ExcelSource, JsonlSource, JsonSource, ParquetSource, Source, SqlSource
from fine_tune_pipeline.spec.paths import is_url
from fine_tune_pipeline_tests.guide.dataset.hub import COMMIT, ID, hub
from fine_tune_pipeline_tests.guide.dataset.papers import protected_office
from fine_tune_pipeline_tests.web import Quiet, web_server


def open_at(folder: Path, source: Source) -> Opened:
    return opened(source, locate=lambda path: path if is_url(path) else str(folder / path), field="dataset.sources[0]")


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
        (b"text;label\na;b\n", "write delimiter: ';'"),
        (b"text\tlabel\na\tb\n", "write delimiter: "),
        (b'text,label\n"a,b\n', "unclosed quote"),
        (b"te\xffxt\na\n", "UTF-8"),
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


def sql(query: str = "SELECT id, body FROM message", **parameters: str | int) -> SqlSource:
    return SqlSource(type="sql", url_variable="TEST_DATABASE", query=query, parameters=parameters)


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


def test_parameters_reach_the_database_as_values(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(1, "a"), (2, "it's; DROP TABLE message"), (3, "c")]))
    query = "SELECT id FROM message WHERE body = :body OR id >= :least"
    assert columns(open_at(tmp_path, sql(query, body="it's; DROP TABLE message", least=3))) == [{"id": 2}, {"id": 3}]


@pytest.mark.parametrize(
    ("query", "parameters", "said"),
    [
        ("SELECT id FROM message WHERE id = :id", {}, "got none, want the :names of the query, id"),
        ("SELECT id FROM message", {"id": 1}, "got id, want the :names of the query, none"),
        ("SELECT id FROM message WHERE id = :id", {"idd": 1}, "got idd, want the :names of the query, id"),
    ],
)
def test_parameters_that_are_not_those_of_the_query_are_refused(tmp_path, monkeypatch, query, parameters, said):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(1, "a")]))
    with pytest.raises(FailedQuery, match=rf"dataset\.sources\[0\]\.parameters: {said}"):
        open_at(tmp_path, sql(query, **parameters))


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


def test_a_folder_gives_all_its_files_of_the_type_and_rows_say_which(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "b"}\n', encoding="utf-8")
    (tmp_path / "in" / "deep" / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "c"}\nbroken\n'))
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    (tmp_path / "in" / "notes.txt").write_text("not asked for", encoding="utf-8")
    rows = list(open_at(tmp_path, JsonlSource(type="jsonl", path="in")).rows())
    assert [row.place for row in rows] == ["a.jsonl, row 1", "b.jsonl, row 1", "deep/c.jsonl.gz, row 1", "deep/c.jsonl.gz, row 2"]
    assert [row.columns for row in rows] == [{"text": "a"}, {"text": "b"}, {"text": "c"}, None]


def test_a_glob_gives_what_it_matches_in_the_order_of_the_names(tmp_path):
    for name in ("2026-02.csv", "2026-01.csv", "2025-12.csv"):
        (tmp_path / name).write_text(f"text\n{name}\n", encoding="utf-8")
    assert columns(open_at(tmp_path, CsvSource(type="csv", path="2026-*.csv"))) == [{"text": "2026-01.csv"}, {"text": "2026-02.csv"}]


def test_the_names_of_files_do_not_count_but_their_contents_and_order_do(tmp_path):
    def digest(folder: str, **files: str) -> str:
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / f"{name}.jsonl").write_text(f'{{"text": "{text}"}}\n', encoding="utf-8")
        return open_at(tmp_path, JsonlSource(type="jsonl", path=folder)).sha256

    one = digest("one", a="x", b="y")
    assert digest("renamed", c="x", d="y") == one
    assert digest("turned", a="y", b="x") != one
    assert digest("changed", a="x", b="z") != one


def test_packed_and_plain_bytes_are_the_same_source(tmp_path):
    (tmp_path / "plain.jsonl").write_bytes(b'{"text": "a"}\n')
    (tmp_path / "packed.jsonl.xz").write_bytes(lzma.compress(b'{"text": "a"}\n'))
    plain, packed = (open_at(tmp_path, JsonlSource(type="jsonl", path=name)) for name in ("plain.jsonl", "packed.jsonl.xz"))
    assert plain.sha256 == packed.sha256
    assert columns(plain) == columns(packed)


def test_a_cut_off_archive_is_refused(tmp_path):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(UnreadableSource, match=r"dataset\.sources\[0\] \(.*rows\.jsonl\.gz\): cannot be read"):
        open_at(tmp_path, JsonlSource(type="jsonl", path="rows.jsonl.gz"))


@pytest.mark.parametrize("path", ["nothing", "*.jsonl", "empty"])
def test_a_path_that_names_no_file_is_refused(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingSource, match=r"dataset\.sources\[0\].*holds no \*\.jsonl"):
        open_at(tmp_path, JsonlSource(type="jsonl", path=path))


def test_files_are_read_from_a_web_server(tmp_path):
    (tmp_path / "rows.csv").write_text("text\na\n", encoding="utf-8")
    with web_server(partial(FolderHandler, directory=str(tmp_path))) as url:
        assert columns(open_at(tmp_path, CsvSource(type="csv", path=f"{url}/rows.csv"))) == [{"text": "a"}]
        with pytest.raises(MissingSource, match="is not there"):
            open_at(tmp_path, CsvSource(type="csv", path=f"{url}/other.csv"))
    with pytest.raises((UnreadableSource, MissingSource), match=r"dataset\.sources\[0\]"):
        open_at(tmp_path, CsvSource(type="csv", path=f"{url}/rows.csv"))


def test_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(UnreadableSource, match=r"dataset\.sources\[0\]: nosuch:// cannot be opened"):
        open_at(tmp_path, JsonlSource(type="jsonl", path="nosuch://bucket/rows.jsonl"))


class FolderHandler(Quiet, SimpleHTTPRequestHandler):
    """Gives the files of a folder."""


def test_a_json_list_gives_its_objects_and_breaks_what_is_none(tmp_path):
    (tmp_path / "rows.json").write_text('[{"text": "a"}, 7, {"text": "b"}]', encoding="utf-8")
    rows = list(open_at(tmp_path, JsonSource(type="json", path="rows.json")).rows())
    assert [row.columns for row in rows] == [{"text": "a"}, None, {"text": "b"}]
    assert "got int, want an object" in rows[1].problem


def test_a_json_list_may_lie_deeper(tmp_path):
    (tmp_path / "rows.json").write_text('{"data": {"tickets": [{"text": "a"}], "count": 1}}', encoding="utf-8")
    assert columns(open_at(tmp_path, JsonSource(type="json", path="rows.json", records="data.tickets"))) == [{"text": "a"}]


@pytest.mark.parametrize(
    ("content", "records", "said"),
    [
        ('{"tickets": [], "count": 1}', None, "write records: tickets"),
        ('{"a": [], "b": []}', None, "keys 'a', 'b'"),
        ('{"tickets": []}', "data.tickets", "no 'data'.*'tickets'"),
        ('{"tickets": [1,\n2', None, "line 2 is not JSON"),
        ('"text"', None, "got str"),
        ('{"a": 1}\n{"a": 2}', None, "type: jsonl"),
    ],
)
def test_a_json_file_of_another_shape_is_refused_with_what_to_write(tmp_path, content, records, said):
    (tmp_path / "rows.json").write_text(content, encoding="utf-8")
    with pytest.raises(UnreadableSource, match=said) as error:
        list(open_at(tmp_path, JsonSource(type="json", path="rows.json", records=records)).rows())
    assert "dataset.sources[0]" in str(error.value)


def test_an_over_long_line_breaks_its_row_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LINE_BYTES", 50)
    lines = [b'{"text": "a"}', b'{"text": "' + b"x" * 140 + b'"}', b'{"text": "b"}']
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    rows = list(open_at(tmp_path, JsonlSource(type="jsonl", path="rows.jsonl")).rows())
    assert [row.columns for row in rows] == [{"text": "a"}, None, {"text": "b"}]
    assert "has 153 bytes, want at most 50" in rows[1].problem
    assert rows[1].raw.startswith('{"text": "xxx')


def test_a_csv_row_in_another_encoding_is_broken_alone(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"text\ncaf\xe9\ncaf\xc3\xa9\n")
    rows = list(open_at(tmp_path, CsvSource(type="csv", path="rows.csv")).rows())
    assert [row.columns for row in rows] == [None, {"text": "café"}]
    assert "utf-8" in rows[0].problem
    assert rows[0].content == {"line": r'["caf\udce9"]'}


def test_a_csv_file_in_another_encoding_is_refused_with_what_to_write(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"text\n" + "café\n".encode("cp1252") * 20)
    with pytest.raises(UnreadableSource, match=r"20 of 20 rows are not utf-8; write the encoding.*cp1252"):
        list(open_at(tmp_path, CsvSource(type="csv", path="rows.csv")).rows())
    assert columns(open_at(tmp_path, CsvSource(type="csv", path="rows.csv", encoding="cp1252"))) == [{"text": "café"}] * 20


def test_a_csv_file_in_utf_16_is_refused_and_read_when_its_encoding_is_given(tmp_path):
    (tmp_path / "rows.csv").write_bytes("text\ncafé\n".encode("utf-16"))
    with pytest.raises(UnreadableSource, match="write encoding: utf-16"):
        list(open_at(tmp_path, CsvSource(type="csv", path="rows.csv")).rows())
    assert columns(open_at(tmp_path, CsvSource(type="csv", path="rows.csv", encoding="utf-16"))) == [{"text": "café"}]


def workbook(path: Path, sheets: dict[str, list[list[object]]]) -> None:
    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        page = book.create_sheet(name)
        for row in rows:
            page.append(row)
    book.save(path)


def test_excel_rows_carry_the_numbers_that_excel_shows(tmp_path):
    tickets = [[None, None], ["text", "day"], ["a", date(2026, 1, 2)], [None, None], ["b", None], ["#REF!", None]]
    workbook(tmp_path / "rows.xlsx", {"tickets": tickets, "other": [["text"], ["z"]]})
    rows = list(open_at(tmp_path, ExcelSource(type="excel", path="rows.xlsx")).rows())
    assert [row.number for row in rows] == [3, 5, 6]
    assert [row.columns for row in rows] == [{"text": "a", "day": "2026-01-02 00:00:00"}, {"text": "b", "day": None}, None]
    assert "'text' holds the error #REF!" in rows[2].problem
    assert columns(open_at(tmp_path, ExcelSource(type="excel", path="rows.xlsx", sheet="other"))) == [{"text": "z"}]


@pytest.mark.parametrize(
    ("sheets", "sheet", "said"),
    [
        ({"tickets": [["text"]]}, "missing", "no 'missing'; the workbook has 'tickets'"),
        ({"tickets": []}, None, "'tickets' is empty"),
        ({"tickets": [["text", "text"], ["a", "b"]]}, None, "'text' stands twice"),
    ],
)
def test_a_workbook_without_what_is_wanted_is_refused(tmp_path, sheets, sheet, said):
    workbook(tmp_path / "rows.xlsx", sheets)
    with pytest.raises(UnreadableSource, match=said):
        list(open_at(tmp_path, ExcelSource(type="excel", path="rows.xlsx", sheet=sheet)).rows())


def test_a_workbook_that_needs_a_password_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "rows.xlsx").write_bytes(protected_office())
    with pytest.raises(UnreadableSource, match=r"dataset\.sources\[0\] \(.*rows\.xlsx\): needs a password; save it without one"):
        list(open_at(tmp_path, ExcelSource(type="excel", path="rows.xlsx")).rows())


@pytest.mark.parametrize("content", [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 an old or protected workbook", b"PK\x03\x04 cut off"])
def test_what_is_no_workbook_is_refused_with_what_to_do(tmp_path, content):
    (tmp_path / "rows.xlsx").write_bytes(content)
    with pytest.raises(UnreadableSource, match="without a password"):
        list(open_at(tmp_path, ExcelSource(type="excel", path="rows.xlsx")).rows())


def test_a_dataset_of_the_hub_is_read_at_its_commit(tmp_path, monkeypatch):
    files = {"data/a.jsonl": b'{"text": "a"}\n', "data/b.jsonl": b'{"text": "b"}\n', "README.md": b"# Tickets"}
    HfFileSystem.clear_instance_cache()
    with hub(files) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        source = JsonlSource(type="jsonl", path=f"hf://datasets/{ID}@{COMMIT}/data")
        assert columns(open_at(tmp_path, source)) == [{"text": "a"}, {"text": "b"}]
        with pytest.raises((MissingSource, UnreadableSource), match=r"dataset\.sources\[0\]"):
            open_at(tmp_path, JsonlSource(type="jsonl", path=f"hf://datasets/owner/other@{COMMIT}/data"))
    HfFileSystem.clear_instance_cache()


def test_a_file_whose_own_name_looks_like_a_glob_is_that_file(tmp_path):
    (tmp_path / "rows[1].jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    assert columns(open_at(tmp_path, JsonlSource(type="jsonl", path="rows[1].jsonl"))) == [{"text": "a"}]


def test_a_file_that_may_not_be_read_is_refused_with_its_field(tmp_path, monkeypatch):
    def refuse(system: LocalFileSystem, path: str, **_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    # The tests may run as a user whom no permission stops.
    monkeypatch.setattr(LocalFileSystem, "_open", refuse)
    with pytest.raises(
        UnreadableSource, match=r"dataset\.sources\[0\] \(.*rows\.jsonl\): may not be read .*let the user who runs this read it"
    ):
        open_at(tmp_path, JsonlSource(type="jsonl", path="rows.jsonl"))


def test_jsonl_in_another_encoding_is_refused_with_what_to_do(tmp_path):
    source = JsonlSource(type="jsonl", path="rows.jsonl")
    (tmp_path / "rows.jsonl").write_bytes('{"text": "café"}\n'.encode("cp1252") * 20)
    with pytest.raises(UnreadableSource, match=r"20 of 20 rows are not UTF-8; save the file as UTF-8"):
        list(open_at(tmp_path, source).rows())
    (tmp_path / "rows.jsonl").write_bytes('{"text": "café"}\n'.encode("utf-16"))
    with pytest.raises(UnreadableSource, match="begins as UTF-16 does"):
        list(open_at(tmp_path, source).rows())


def test_a_number_that_cannot_be_read_breaks_its_row(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"n": ' + "9" * 5000 + '}\n{"n": 1}\n', encoding="utf-8")
    broken, fine = open_at(tmp_path, JsonlSource(type="jsonl", path="rows.jsonl")).rows()
    assert "holds what cannot be read" in broken.problem
    assert fine.columns == {"n": 1}
    (tmp_path / "rows.json").write_text('[{"n": ' + "9" * 5000 + "}]", encoding="utf-8")
    with pytest.raises(UnreadableSource, match="holds what cannot be read"):
        list(open_at(tmp_path, JsonSource(type="json", path="rows.json")).rows())


def test_a_line_of_ten_megabytes_is_a_row_and_one_that_is_too_long_costs_no_more_memory(tmp_path):
    with (tmp_path / "rows.jsonl").open("wb") as stream:
        stream.write(b'{"text": "' + b"x" * 10_000_000 + b'"}\n{"text": "')
        for _ in range(200):
            stream.write(b"y" * 1_000_000)
        stream.write(b'"}\n{"text": "b"}\n')
    tracemalloc.start()
    long, longer, fine = (
        (row.number, len(str(row.columns)), row.problem) for row in open_at(tmp_path, JsonlSource(type="jsonl", path="rows.jsonl")).rows()
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert long[:2] == (1, 10_000_012)
    assert "the line has 200,000,013 bytes, want at most 16,777,216" in longer[2]
    assert fine == (3, 13, "")
    assert peak < 120_000_000


def test_a_quote_that_is_never_closed_is_refused_before_it_fills_the_memory(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b'text\n"' + b"a\n" * 9_000_000)
    with pytest.raises(UnreadableSource, match=r"is not CSV \(field larger than field limit.*an unclosed quote is the usual cause"):
        list(open_at(tmp_path, CsvSource(type="csv", path="rows.csv")).rows())


def test_json_that_would_fill_the_memory_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "JSON_BYTES", 20)
    (tmp_path / "rows.json").write_text('[{"text": "a long text"}]', encoding="utf-8")
    with pytest.raises(UnreadableSource, match=r"has more than 20 bytes.*write it as JSON Lines \(jq -c"):
        list(open_at(tmp_path, JsonSource(type="json", path="rows.json")).rows())


def test_a_half_written_parquet_file_is_refused(tmp_path):
    pq.write_table(pa.table({"text": ["a"] * 1000}), tmp_path / "rows.parquet")
    whole = (tmp_path / "rows.parquet").read_bytes()
    (tmp_path / "rows.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableSource, match=r"rows\.parquet\): not a Parquet file, or not all of one"):
        list(open_at(tmp_path, ParquetSource(type="parquet", path="rows.parquet")).rows())


def test_a_large_row_group_is_not_in_memory_at_once(tmp_path):
    texts = [random.Random(number).randbytes(500).hex() for number in range(60_000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet", row_group_size=60_000)
    del texts
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    for row in open_at(tmp_path, ParquetSource(type="parquet", path="rows.parquet")).rows():
        most = max(most, pool.bytes_allocated() - before) if row.number % 1000 == 1 else most
    assert most < 20_000_000


def test_rows_of_a_query_are_not_in_memory_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(number, f"{number} " + "x" * 1000) for number in range(10_000)]))
    tracemalloc.start()
    found = open_at(tmp_path, sql())
    rows = sum(1 for _ in found.rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 10_000
    assert peak < 5_000_000


def test_the_columns_of_a_query_stay_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DATABASE", database(tmp_path / "one.db", [(1, "a")]))
    [row] = open_at(tmp_path, sql("SELECT body, id FROM message")).rows()
    assert list(row.columns or ()) == ["body", "id"]
