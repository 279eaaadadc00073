import json
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.examples import BrokenLine, Example
from fine_tune_pipeline.guide.technique.answer_rows import (
    BadAnswer,
    DuplicatedAnswers,
    MissingAnswers,
    NoAnswers,
    UnknownAnswers,
    UnusableAnswers,
    read_all_answers,
    read_answers,
)
from fine_tune_pipeline.guide.technique.systems import write_answers

ROWS = [Example(id, f"prompt {id}", id.upper()) for id in "abc"]
GIVEN = [{"id": id, "text": id} for id in "abc"]


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "system.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def test_answers_come_back_in_the_order_of_the_rows(tmp_path: Path):
    write_answers(tmp_path / "x.jsonl", list(reversed(ROWS)), ["3", "2", "1"])
    assert read_all_answers(tmp_path / "x.jsonl", ROWS) == ["1", "2", "3"]


def test_some_of_the_rows_may_be_read(tmp_path: Path):
    assert read_answers(written(tmp_path, *GIVEN), ROWS[1:]) == ["b", "c"]


@pytest.mark.parametrize(
    ("lines", "error", "said"),
    [
        ([], NoAnswers, "holds no answer"),
        (["", "  "], NoAnswers, "holds no answer"),
        (GIVEN[:1], MissingAnswers, "no answer for 2 of 3 rows, the first is 'b'"),
        ([*GIVEN, GIVEN[1]], DuplicatedAnswers, "1 rows are answered more than once, the first is 'b'"),
        ([*GIVEN, {"id": "z", "text": ""}], UnknownAnswers, "1 answers are to rows that were not asked, the first is 'z'"),
        ([GIVEN[0], {"text": "b"}], BadAnswer, "answer 2 has the keys text; want id and text"),
        ([GIVEN[0], {"id": "b", "text": None}], BadAnswer, "answer 2 has the keys id, text"),
        ([{}], BadAnswer, "answer 1 has the keys none"),
    ],
)
def test_answers_that_cannot_be_judged_are_refused_by_name(tmp_path: Path, lines: list[Any], error: type[UnusableAnswers], said: str):
    with pytest.raises(error, match=said):
        read_all_answers(written(tmp_path, *lines), ROWS)


def test_a_torn_line_is_named(tmp_path: Path):
    with pytest.raises(BrokenLine, match=r"system.jsonl:2: not JSON"):
        read_all_answers(written(tmp_path, GIVEN[0], '{"id": "b", "te'), ROWS)
