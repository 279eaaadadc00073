"""Files of every type: their rows, what breaks one row, what stops the run."""

import random
import tracemalloc
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook

from fine_tune_pipeline.guide.dataset.sources import readers
from fine_tune_pipeline.guide.dataset.sources.files import UnreadableSource
from fine_tune_pipeline.spec.sources import CsvSource, ExcelSource, JsonlSource, JsonSource, ParquetSource
from fine_tune_pipeline_tests.guide.dataset.papers import protected_office
from fine_tune_pipeline_tests.guide.dataset.sources.reading import columns, open_at


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
