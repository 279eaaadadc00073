"""Files that people hand in, wherever they put them, and the command line that tells what is wrong with them."""

import json
import os
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.guide.evaluation.human.judgements import Asked, read_judgements
from fine_tune_pipeline.guide.evaluation.human.pairs import Pair
from fine_tune_pipeline.guide.evaluation.human.ways import lines, offer

PAIRS = [Pair(f"p00{number}", "prompt", "left", "right") for number in (1, 2)]


@pytest.fixture
def folder(tmp_path: Path) -> ReviewFolder:
    made = ReviewFolder.at(tmp_path / "reviews", use_case="triage", kind="pairs", fingerprint="abc")
    offer(made, PAIRS, formats=["jsonl", "html"], questions={}, use_case="triage")
    made.handed_in.mkdir()
    return made


def write(path: Path, *verdicts: tuple[str, str, str], age: int = 0) -> Path:
    rows = [{"id": pair, "choice": choice, "by": by} for pair, choice, by in verdicts]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_several_people_hand_in_several_files_and_the_later_one_counts(folder: ReviewFolder):
    write(folder.handed_in / "kim.jsonl", ("p001", "A", "Kim"), ("p002", "A", "Kim"), age=50)
    write(folder.handed_in / "another.jsonl", ("p001", "B", "Kim"), age=10)
    write(folder.verdict_file, ("p001", "equal", "Lee"))
    kept, refused = read_judgements(lines(folder), Asked(["p001", "p002"]))
    assert sorted((one.by, one.pair, one.choice) for one in kept) == [("kim", "p001", "B"), ("kim", "p002", "A"), ("lee", "p001", "equal")]
    assert [(row.id, row.reason) for row in refused] == [("kim.jsonl:1", "superseded")]


def test_a_file_that_holds_no_verdicts_is_named(folder: ReviewFolder):
    (folder.handed_in / "notes.docx").write_bytes(b"PK")
    _, [row] = read_judgements(lines(folder), Asked(["p001", "p002"]))
    assert (row.id, row.original) == ("notes.docx", {"file": "notes.docx"})
    assert "verdicts.jsonl that the form gives" in row.detail


def test_the_command_line_takes_verdicts_in_and_says_what_waits(
    folder: ReviewFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path))
    given = write(tmp_path / "mine.jsonl", ("p001", "A", "Kim"), ("p009", "A", "Kim"))
    assert main(["review", "triage", str(given), "--pairs"]) == 4
    told = capsys.readouterr()
    assert "1 pairs wait for a verdict" in told.out
    assert "id 'p009' is not in this hand-out" in told.err
    given = write(tmp_path / "rest.jsonl", ("p002", "A", "Kim"))
    assert main(["review", "triage", str(given), "--pairs"]) == 1
    assert "Now materialize human_evaluation again." in capsys.readouterr().out
    assert len(list(folder.handed_in.iterdir())) == 2


def test_nothing_handed_out_says_what_hands_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path))
    assert main(["review", "triage", "--pairs"]) == 1
    assert "nothing was handed out; materialize human_evaluation first" in capsys.readouterr().err
