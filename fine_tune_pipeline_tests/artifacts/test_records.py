from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import BrokenLine, Example, read_examples, read_rows, write_examples
from fine_tune_pipeline.artifacts.quarantine import Quarantined, read_quarantine, reasons, write_quarantine
from fine_tune_pipeline.artifacts.reviews import ReviewFolder


def test_examples_come_back_as_they_were_with_odd_characters(tmp_path: Path):
    # U+2028 and U+0085 are line ends for str.splitlines, but not in JSONL.
    examples = [Example("1", "a\u2028b\u0085c\n", '{"x": "é"}', source="s", held_out=True, metadata={"k": "v"}), Example("2", "", "")]
    write_examples(tmp_path / "x.jsonl", examples)
    assert read_examples(tmp_path / "x.jsonl") == examples


@pytest.mark.parametrize(("line", "said"), [("{", ":2: not JSON"), ("[1]", ":2: got list, want an object")])
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str):
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n" + line + "\n", encoding="utf-8")
    with pytest.raises(BrokenLine, match=said):
        read_rows(path)


def test_quarantine_keeps_the_row_and_counts_reasons(tmp_path: Path):
    rows = [
        Quarantined("1", "empty", "no letters", {"prompt": ""}),
        Quarantined("2", "empty", "no letters", {}),
        Quarantined("3", "long", "9 > 5", {}),
    ]
    write_quarantine(tmp_path, rows)
    assert read_quarantine(tmp_path) == rows
    assert reasons(rows) == {"empty": 2, "long": 1}


def test_handing_out_again_keeps_the_verdicts(tmp_path: Path):
    folder = ReviewFolder.at(tmp_path, use_case="triage", kind="pairs", fingerprint="f")
    folder.hand_out([{"id": "1"}])
    folder.verdict_file.write_text('{"id": "1", "choice": "A"}\n', encoding="utf-8")
    folder.hand_out([{"id": "1"}, {"id": "2"}])
    assert folder.files_handed_in() == [folder.verdict_file]
    assert folder.verdict_file.read_text(encoding="utf-8") == '{"id": "1", "choice": "A"}\n'
