"""Reviewed findings: read as people wrote them, and refused with file, row and field where they cannot be."""

import pytest

from fine_tune_pipeline.guide.dataset.scrubbing.reviewed_texts import BadReview, ReviewedText, read_reviewed, read_scrubbed
from fine_tune_pipeline.guide.dataset.scrubbing.scrub_file import scrub_file
from fine_tune_pipeline_tests.guide.dataset.make import Words, jsonl

KNOWN = {"PERSON", "LOCATION", "EMAIL_ADDRESS"}
LOOKED_FOR = ["PERSON", "LOCATION"]


def read(tmp_path, *rows):
    return read_reviewed(jsonl(tmp_path / "reviewed.jsonl", rows), entities=KNOWN, looked_for=LOOKED_FOR)


def finding(start, end, entity="PERSON"):
    return {"start": start, "end": end, "entity": entity}


def test_a_row_is_a_text_with_its_findings_in_order(tmp_path):
    row = {"text": "Ann met Bob", "findings": [finding(8, 11), finding(0, 3)], "document": "d7"}
    assert read(tmp_path, row, {"text": "none", "findings": []}) == [
        ReviewedText("Ann met Bob", ((0, 3, "PERSON"), (8, 11, "PERSON")), "d7", ("LOCATION", "PERSON")),
        ReviewedText("none", (), "none", ("LOCATION", "PERSON")),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "Ann met Bob", "findings": [finding(0, 7), finding(4, 11)]}, "row 2: findings: PERSON at 0-7 and PERSON at 4-11 overlap"),
        ({"text": "Ann", "findings": [finding(0, 4)]}, r"findings\[0\]: got 0-4, want a place in a text of 3 characters"),
        ({"text": "Ann", "findings": [finding(-1, 2)]}, "got -1-2, want a place"),
        ({"text": "Ann", "findings": [finding(2, 2)]}, "got 2-2, want a place"),
        ({"text": "Ann", "findings": [finding(0, 3, "PERSN")]}, r"entity: got \"PERSN\", want one of EMAIL_ADDRESS, LOCATION, PERSON"),
        ({"text": "Ann", "findings": [finding("0", 3)]}, r"findings\[0\]\.start: got \"0\", want a number"),
        ({"text": "Ann", "findings": ["Ann"]}, r"got \"Ann\", want an object"),
        ({"text": "Ann"}, "findings: got null, want a list; an empty one"),
        ({"findings": []}, "text: got null, want the text"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(tmp_path, row, said):
    with pytest.raises(BadReview, match=said) as refused:
        read(tmp_path, {"text": "fine", "findings": []}, row)
    assert "reviewed.jsonl: row 2" in str(refused.value)


def test_what_scrub_wrote_can_be_handed_back(tmp_path):
    rows = [{"id": "a", "text": "Ann came"}, {"messages": [{"role": "user", "content": "I am Bob"}], "note": "short one"}]
    source, findings = jsonl(tmp_path / "in.jsonl", rows), tmp_path / "f.jsonl"
    scrub_file(source, tmp_path / "out.jsonl", findings, detect=Words(Ann="PERSON", Bob="PERSON"))
    assert read_scrubbed(source, findings, entities=KNOWN, looked_for=["PERSON"]) == [
        ReviewedText("Ann came", ((0, 3, "PERSON"),), "a", ("PERSON",)),
        ReviewedText("I am Bob", ((5, 8, "PERSON"),), "2", ("PERSON",)),
        ReviewedText("short one", (), "2", ("PERSON",)),
    ]


def test_a_finding_of_no_text_is_refused(tmp_path):
    source = jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": "Ann came"}])
    findings = jsonl(tmp_path / "f.jsonl", [{"id": "b", "path": "text", **finding(0, 3)}])
    with pytest.raises(BadReview, match=r"f\.jsonl: row 1: id 'b', path 'text': there is no such text in .*in\.jsonl"):
        read_scrubbed(source, findings, entities=KNOWN, looked_for=["PERSON"])
