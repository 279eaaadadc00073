"""Rounds with people: what they handed in is remembered by what they saw, in whatever file it came."""

import json
import os
import shutil

import pytest

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.guide.dataset.review.files.tables import read_csv, read_xlsx
from fine_tune_pipeline_tests.guide.dataset.make import example, jsonl
from fine_tune_pipeline_tests.guide.dataset.review.test_files import fill_csv, fill_xlsx
from fine_tune_pipeline_tests.guide.dataset.reviewing import Room, experts, rows


def accept(id_, by="Kim", **more):
    return {"id": id_, "verdict": "accept", "by": by, **more}


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path, rows())
    room.run()
    return room


def test_nobody_is_asked_twice_for_the_same_text_when_all_else_changes(room):
    judged = room.handed_out
    room.answer([accept(id_) for id_ in judged])
    room.run()
    room.upstream([example(f"new{number}", row.prompt) for number, row in enumerate(room.examples)], fingerprint="def")
    room.run()
    assert room.handout == []
    assert room.check.passed
    assert sum(row.metadata["review"] == "accept" for row in room.kept.values()) == 2


def test_verdicts_that_came_for_an_earlier_hand_out_count_after_the_data_changed(room):
    late = room.reviews
    judged = room.handed_out
    room.upstream(room.examples, fingerprint="def")
    room.run()
    assert room.handed_out == judged
    jsonl(late.verdict_file, [accept(id_) for id_ in judged])
    room.run()
    assert room.check.passed


def test_a_row_whose_text_changed_is_asked_again(room):
    first, second = room.handed_out
    room.answer([accept(first), accept(second)])
    room.run()
    changed = [example(row.id, row.prompt, "pear") if row.id == first else row for row in room.examples]
    room.upstream(changed, fingerprint="def")
    room.spec = experts(share=1.0)
    room.run()
    assert first in room.handed_out
    assert second not in room.handed_out


def test_an_id_means_what_it_meant_in_the_hand_out_that_it_came_from(room):
    """The same id with another text: a verdict beside the first hand-out is on the first text."""
    room.spec = experts(share=1.0)
    room.run()
    early, first = room.reviews, room.handed_out[0]
    room.upstream([example(row.id, row.prompt, "pear") for row in room.examples], fingerprint="def")
    room.run()
    jsonl(early.verdict_file, [accept(first)])
    room.run()
    assert first in room.handed_out
    room.answer([accept(first)])
    room.run()
    assert first not in room.handed_out


def test_the_layout_of_earlier_versions_is_read(tmp_path):
    room = Room(tmp_path, rows())
    room.reviews.folder.mkdir(parents=True)
    old = [{"id": row.id, "prompt": row.prompt, "completion": row.completion, "source": "", "why": "sample"} for row in rows()]
    write_rows(room.reviews.folder / "handout.jsonl", old)
    room.answer([accept(row.id) for row in rows()])
    room.run()
    assert room.check.passed
    assert room.handout == []
    assert len(room.round.verdicts) == 10


@pytest.mark.parametrize("old", [False, True])
def test_verdicts_written_into_the_jsonl_hand_out_count(tmp_path, old):
    room = Room(tmp_path, rows())
    room.run()
    judged = [{**row, "verdict": "accept", "by": "Kim"} for row in room.handout]
    if old:
        (room.reviews.folder / "asked.jsonl").unlink()
        judged = [{name: row[name] for name in ("id", "prompt", "completion", "verdict", "by")} for row in judged]
    write_rows(room.reviews.folder / "handout.jsonl", judged)
    for _ in range(2):
        room.run()
        assert room.check.passed
        assert room.refused == []


def test_verdicts_are_remembered_when_the_hand_out_is_gone(room):
    room.answer([accept(id_) for id_ in room.handed_out])
    room.run()
    shutil.rmtree(room.reviews.folder)
    room.run()
    assert room.check.passed
    assert (room.reviews.folder.parent / "ledger.jsonl").exists()


def test_running_again_changes_neither_the_ledger_nor_the_digest(room):
    room.answer([accept(id_) for id_ in room.handed_out])
    room.run()
    ledger, digest = room.reviews.ledger.path.read_bytes(), room.round.digest(room.examples)
    room.run()
    assert (room.reviews.ledger.path.read_bytes(), room.round.digest(room.examples)) == (ledger, digest)


def test_the_digest_is_of_what_is_said_about_these_examples(room):
    assert room.round.digest(room.examples) is None
    room.answer([accept(id_) for id_ in room.handed_out])
    room.run()
    assert room.round.digest(room.examples) is not None
    assert room.round.digest([example("x", "something else")]) is None


def test_two_files_are_handed_in_and_the_later_one_wins(room):
    first, second = room.handed_out
    early = jsonl(room.put("b.jsonl"), [accept(first), accept(second)])
    late = jsonl(room.put("a.jsonl"), [{"id": first, "verdict": "reject", "by": "Kim", "content": room.handout[0]["content"]}])
    os.utime(early, (1_000_000, 1_000_000))
    os.utime(late, (2_000_000, 2_000_000))
    room.run()
    assert room.check.passed
    assert first not in room.kept
    # Once remembered, the order of the files plays no part.
    os.utime(early, (3_000_000, 3_000_000))
    room.run()
    assert first not in room.kept


@pytest.mark.parametrize(("name", "fill"), [("handout.csv", fill_csv), ("handout.xlsx", fill_xlsx)])
def test_a_hand_out_filled_in_where_it_lies_is_set_aside_and_counts(room, name, fill):
    fill(room.reviews.folder / name, {0: {"verdict": "accept", "by": "Kim"}})
    first, second = room.handed_out
    room.run()
    assert room.handed_out == [second]
    [kept] = room.reviews.handed_in.iterdir()
    assert (kept.stem.split("-")[0], kept.suffix) == ("handout", name[-len(kept.suffix) :])
    read = read_csv if name.endswith("csv") else read_xlsx
    assert [line.fields["id"] for line in read(room.reviews.folder / name)] == [second]
    assert room.kept[first].metadata["review"] == "accept"


def test_a_workbook_that_nothing_has_changed_for_is_not_written_again(room):
    before = (room.reviews.folder / "handout.xlsx").stat().st_mtime_ns
    room.run()
    assert (room.reviews.folder / "handout.xlsx").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("v.csv", "id;by;verdict\nr1;J\xfcrgen;accept\n".encode("cp1252"), "not UTF-8 (byte 18"),
        ("v.csv", b"row,who\n1,Kim\n", "no column id, by; found row, who"),
        ("v.csv", b"id,by\n1,Kim\n", "neither a column verdict nor"),
        ("v.csv", b"id,by,by,verdict\n", "column by is there twice"),
        ("v.csv", b"", "no column id, by; found no header"),
        ("v.xlsx", b"\xd0\xcf\x11\xe0 password", "no Excel workbook"),
        ("v.xlsx", b"", "no Excel workbook"),
        ("v.json", b"{", "not JSON"),
        ("v.json", b'[{"id": 1, "verdict": "accept"}]', "not as JSON-MIN"),
        ("v.jsonl", b'{"id": "\xff"}', "not UTF-8 (byte 8)"),
        ("v.docx", b"x", "want a file that ends in .jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_refused_line_and_the_others_count(room, name, data, said):
    room.put(name).write_bytes(data)
    room.answer([accept(room.handed_out[0])])
    room.run()
    assert "waiting for people: 1 of 2" in room.check.description
    [row] = room.refused
    assert row["reason"] == "unreadable_file"
    assert said in row["detail"]


def test_a_broken_line_is_refused_with_its_number_and_the_others_count(room):
    first, second = room.handed_out
    room.reviews.verdict_file.write_text(f'{json.dumps(accept(first))}\n{{"id": \n[1]\n{json.dumps(accept(second))}\n', encoding="utf-8")
    room.run()
    assert room.check.passed
    assert [(row["reason"], row["detail"].split(": ")[0]) for row in room.refused] == [
        ("broken_line", "verdicts.jsonl:2"),
        ("broken_line", "verdicts.jsonl:3"),
    ]


@pytest.mark.parametrize("name", [".verdicts.jsonl.swp", "~$handout.xlsx"])
def test_files_that_editors_leave_are_no_hand_in(room, name):
    room.put(name).write_bytes(b"\x00")
    room.run()
    assert room.refused == []


def test_all_that_was_ever_handed_out_is_known_though_the_hand_out_shrinks(room):
    first, second = room.handed_out
    room.answer([accept(first)])
    room.run()
    room.answer([accept(first), accept(second), {"id": first, "verdict": "reject", "by": "Kim"}])
    room.run()
    assert room.refused == []
    assert first not in room.kept
    assert [row["id"] for row in read_rows(room.reviews.folder / "asked.jsonl")] == [first, second]
