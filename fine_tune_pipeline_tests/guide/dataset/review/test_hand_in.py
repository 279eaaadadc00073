"""`fine-tune-pipeline review`: what waits, and handing files in."""

import json

import pytest

from fine_tune_pipeline.cli import main
from fine_tune_pipeline_tests.guide.dataset.make import jsonl
from fine_tune_pipeline_tests.guide.dataset.reviewing import Room, experts, rows


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path))
    room = Room(tmp_path, rows(), experts(share=0.3, double_share=0.4))
    room.run()
    return room


def review(capsys, *files):
    code = main(["review", "--json", "fruit", *map(str, files)])
    return code, json.loads(capsys.readouterr().out)


def accept(id_, by="Kim"):
    return {"id": id_, "verdict": "accept", "by": by}


def test_waiting_for_people_is_exit_code_4(room, capsys):
    code, said = review(capsys)
    assert (code, said["waiting"], said["folder"]) == (4, 3, str(room.reviews.folder))


def test_a_file_that_is_handed_in_is_found_by_the_next_run(room, tmp_path, capsys):
    code, said = review(capsys, jsonl(tmp_path / "kim.jsonl", [accept(id_) for id_ in room.handed_out]))
    assert (code, said["verdicts"], said["waiting"], said["second_looks"]) == (0, 3, 0, 1)
    room.run()
    assert room.check.passed


def test_handing_the_same_file_in_twice_changes_nothing(room, tmp_path, capsys):
    path = jsonl(tmp_path / "kim.jsonl", [accept(room.handed_out[0])])
    for _ in range(2):
        assert review(capsys, path)[0] == 4
    assert len(list(room.reviews.handed_in.iterdir())) == 1


def test_refused_lines_are_told_at_once(room, tmp_path, capsys):
    path = jsonl(tmp_path / "kim.jsonl", [*(accept(id_) for id_ in room.handed_out), accept("zzz")])
    code, said = review(capsys, path)
    assert code == 1
    assert said["refused"] == ["kim.jsonl:4: id 'zzz' was not handed out; copy ids from the hand-out"]


def test_a_file_that_cannot_be_read_is_not_handed_in(room, tmp_path, capsys):
    (tmp_path / "v.xlsx").write_bytes(b"no workbook")
    assert main(["review", "fruit", str(tmp_path / "v.xlsx")]) == 1
    assert "no Excel workbook" in capsys.readouterr().err
    assert not room.reviews.handed_in.exists()


def test_a_use_case_without_a_hand_out_says_how_to_get_one(room, capsys):
    assert main(["review", "other"]) == 1
    assert "materialize reviewed_examples" in capsys.readouterr().err
