"""Rows in a file are as a list of them, whatever the lines look like and however they are asked for."""

import json
import os
import random

import pytest

from fine_tune_pipeline.artifacts import sequences
from fine_tune_pipeline.artifacts.examples import BrokenLine, Example, write_examples
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.sequences import Chosen, Joined, RowFiles, Stored, chosen, each, stored_examples, where


def same(row):
    return row


def examples(count):
    draw = random.Random(0)
    return [Example(str(n), "é😀\u2028x" * draw.randrange(30), f"answer {n}", metadata={"n": str(n)}) for n in range(count)]


@pytest.fixture
def stored(tmp_path):
    write_examples(tmp_path / "rows.jsonl", examples(50))
    return stored_examples(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("block", [1, 100, 2**20])
def test_a_file_is_a_sequence_of_its_rows_in_any_order(tmp_path, monkeypatch, block):
    monkeypatch.setattr(sequences, "_BLOCK", block)
    write_examples(tmp_path / "rows.jsonl", examples(50))
    rows = stored_examples(tmp_path / "rows.jsonl")
    assert rows == examples(50)
    assert list(rows) == examples(50)
    places = random.Random(1).choices(range(-50, 50), k=200)
    assert [rows[place] for place in places] == [examples(50)[place] for place in places]
    assert (rows[3:9], rows[::-7], rows[-4:]) == (examples(50)[3:9], examples(50)[::-7], examples(50)[-4:])


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_the_last_line_may_lack_its_end_and_empty_lines_are_no_rows(tmp_path, end):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n{"a": 3}' + end, encoding="utf-8")
    assert Stored(tmp_path / "rows.jsonl", same) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_an_empty_file_is_an_empty_sequence(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    rows = Stored(tmp_path / "rows.jsonl", same)
    assert (len(rows), list(rows), bool(rows)) == (0, [], False)
    with pytest.raises(IndexError):
        rows[0]


def test_what_was_opened_is_read_after_the_file_has_been_replaced_and_deleted(stored, tmp_path):
    write_examples(tmp_path / "rows.jsonl", stored[:2])
    assert stored == examples(50)
    (tmp_path / "rows.jsonl").unlink()
    assert stored[49] == examples(50)[49]


def test_a_file_is_closed_when_nobody_holds_its_rows(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    before = len(os.listdir("/proc/self/fd"))
    rows = [Stored(tmp_path / "rows.jsonl", same) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before + 20
    del rows
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("line", "said"), [("{", "row 2: not JSON"), ("[1]", "row 2: got list, want an object")])
def test_a_broken_row_is_named_when_it_is_asked_for(tmp_path, line, said):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n' + line + "\n", encoding="utf-8")
    rows = Stored(tmp_path / "rows.jsonl", same)
    assert rows[0] == {"a": 1}
    with pytest.raises(BrokenLine, match=rf"rows.jsonl: {said}".replace("[", r"\[")):
        rows[1]


def test_views_show_chosen_rows_as_they_are_made(stored):
    assert chosen(stored, [7, 3]) == [stored[7], stored[3]]
    assert Chosen(stored, [7, 3], lambda place, row: (place, row.id)) == [(7, "7"), (3, "3")]
    assert each(stored, lambda row: row.id) == [str(n) for n in range(50)]
    assert where(stored, lambda row: row.id.endswith("9")).places.tolist() == [9, 19, 29, 39, 49]
    assert chosen(stored, []) == []


def test_joined_rows_come_in_order_and_each_by_its_place(stored):
    rows = Joined([], stored[:3], [], chosen(stored, [9]), stored[4:6])
    assert [row.id for row in rows] == ["0", "1", "2", "9", "4", "5"]
    assert [rows[place].id for place in (3, -1, 0, 4)] == ["9", "5", "0", "4"]
    assert Joined() == []


def test_a_view_is_not_equal_to_fewer_rows_or_others(stored):
    assert chosen(stored, [1, 2]) != [stored[1]]
    assert chosen(stored, [1, 2]) != [stored[1], stored[3]]
    assert chosen(stored, [1]) != "1"


def test_a_million_rows_take_sixteen_bytes_each(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n' * 10_000, encoding="utf-8")
    rows = Stored(tmp_path / "rows.jsonl", same)
    assert rows._begins.nbytes + rows._ends.nbytes == 16 * len(rows)


def test_rows_written_while_they_come_are_read_back_and_deleted(tmp_path):
    refused = Quarantined("q", "empty", "it is", {"x": 1})
    with RowFiles(tmp_path) as files:
        for example in examples(5):
            files.keep(example)
        files.refuse(refused)
    assert (files.examples(), files.quarantine()) == (examples(5), [refused])
    files.delete()
    assert list(tmp_path.iterdir()) == []


def test_a_row_as_json_is_what_a_file_holds():
    [example] = examples(1)
    assert Example(**json.loads(json.dumps(example.row()))) == example
