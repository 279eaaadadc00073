from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.parquet import write_table

from fine_tune_pipeline.guide.objective.held_out import held_out_rows
from fine_tune_pipeline.spec.use_case import UseCaseSpec


def spec_with(folder: Path, *sources: dict[str, Any]) -> UseCaseSpec:
    objective = {
        "goal": "Answer questions about the staff handbook",
        "task": {"type": "question_answering"},
        "success": [{"metric": "token_f1", "at_least": 0.5}],
    }
    dataset = {"sources": [{"type": "jsonl", "path": "rows.jsonl"}], "held_out": list(sources)}
    return UseCaseSpec.model_validate({"name": "handbook", "objective": objective, "dataset": dataset}).at(folder)


def test_rows_of_files_are_counted_and_added(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "x"}\n\n{"prompt": "y"}\n', encoding="utf-8")
    (tmp_path / "b.csv").write_text('prompt;completion\n"two\nlines";z\nq;w\n', encoding="utf-8")
    write_table(pa.table({"prompt": ["a", "b", "c"]}), tmp_path / "c.parquet")
    found = held_out_rows(
        spec_with(
            tmp_path,
            {"type": "jsonl", "path": "a.jsonl"},
            {"type": "csv", "path": "b.csv", "delimiter": ";"},
            {"type": "parquet", "path": "c.parquet"},
        )
    )
    assert found.rows == 2 + 2 + 3


def test_a_sample_takes_no_more_than_there_is(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' * 10, encoding="utf-8")
    assert held_out_rows(spec_with(tmp_path, {"type": "jsonl", "path": "a.jsonl", "sample": 4})).rows == 4
    assert held_out_rows(spec_with(tmp_path, {"type": "jsonl", "path": "a.jsonl", "sample": 40})).rows == 10


def test_size_is_not_known_when_the_test_set_is_split_off_or_comes_from_a_database(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    split_off = held_out_rows(spec_with(tmp_path))
    assert split_off.rows is None
    assert "split off" in split_off.note
    database = held_out_rows(
        spec_with(tmp_path, {"type": "sql", "url_variable": "X", "query": "select 1"}, {"type": "jsonl", "path": "a.jsonl"})
    )
    assert database.rows is None
    assert "cannot be counted" in database.note


def test_missing_file_is_named_with_its_place(tmp_path: Path):
    found = held_out_rows(spec_with(tmp_path, {"type": "jsonl", "path": "gone.jsonl"}))
    assert found.rows is None
    assert found.missing[0].startswith("dataset.held_out[0].path: ")
    assert "gone.jsonl is not there" in found.missing[0]


@pytest.mark.parametrize(
    ("name", "type_", "content"),
    [("a.parquet", "parquet", b"not parquet"), ("a.csv", "csv", b"\xff\xfe\x00"), ("a.jsonl", "jsonl", b"\xff\xfe")],
)
def test_a_file_that_cannot_be_read_is_left_to_the_step_that_reads_it(tmp_path: Path, name: str, type_: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    assert held_out_rows(spec_with(tmp_path, {"type": type_, "path": name})).rows is None
