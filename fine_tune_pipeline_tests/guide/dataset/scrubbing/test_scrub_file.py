"""The removal of personal data from any JSONL file."""

import json

import pytest

from fine_tune_pipeline.artifacts.examples import BrokenLine, read_rows
from fine_tune_pipeline.guide.dataset.scrubbing.scrub_file import SameFile, scrub_file
from fine_tune_pipeline.programs.pii.stand_ins import NoKey
from fine_tune_pipeline.spec.dataset import PiiSpec
from fine_tune_pipeline_tests.guide.dataset.make import Words, jsonl

DETECT = Words(Ann="PERSON", Rome="LOCATION")


def test_every_text_of_every_row_is_scrubbed_and_the_rest_stays(tmp_path):
    rows = [
        {
            "messages": [{"role": "user", "content": "I am Ann"}, {"role": "assistant", "content": "Hi Ann, how is Rome?"}],
            "n": 1,
            "ok": True,
        },
        {"text": "nothing", "empty": None},
    ]
    done = scrub_file(jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", tmp_path / "found.jsonl", detect=DETECT)
    out = read_rows(tmp_path / "out.jsonl")
    assert out[0]["messages"][0] == {"role": "user", "content": "I am <PERSON>"}
    assert out[0]["messages"][1]["content"] == "Hi <PERSON>, how is <LOCATION>?"
    assert (out[0]["n"], out[0]["ok"], out[1]) == (1, True, rows[1])
    assert (done.rows, done.changed, done.found) == (2, 1, {"LOCATION": 1, "PERSON": 2})


def test_findings_say_where_and_what_kind_but_never_the_text(tmp_path):
    jsonl(tmp_path / "in.jsonl", [{"a": "x"}, {"b": ["I am Ann"]}])
    scrub_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "found.jsonl", detect=DETECT)
    [finding] = read_rows(tmp_path / "found.jsonl")
    assert finding == {"id": 2, "path": "b.0", "start": 5, "end": 8, "entity": "PERSON", "score": 0.9}


def test_a_finding_carries_the_id_of_its_row_unless_the_id_is_personal_itself(tmp_path):
    jsonl(tmp_path / "in.jsonl", [{"id": "m7", "a": "Ann"}, {"id": "Ann", "a": "x"}])
    scrub_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "found.jsonl", detect=DETECT)
    assert [(row["id"], row["path"]) for row in read_rows(tmp_path / "found.jsonl")] == [("m7", "a"), (2, "id")]


def test_more_rows_than_one_batch_keep_their_numbers(tmp_path):
    jsonl(tmp_path / "in.jsonl", [{"a": "x"}] * 150 + [{"a": "Ann"}])
    done = scrub_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "found.jsonl", detect=DETECT)
    assert (done.rows, read_rows(tmp_path / "found.jsonl")[0]["id"]) == (151, 151)
    assert len(read_rows(tmp_path / "out.jsonl")) == 151


def test_a_broken_line_is_an_error_and_nothing_is_written(tmp_path):
    jsonl(tmp_path / "in.jsonl", [{"a": "Ann"}, "not json"])
    with pytest.raises(BrokenLine, match=r"in\.jsonl:2"):
        scrub_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", detect=DETECT)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_input_is_never_overwritten(tmp_path):
    path = jsonl(tmp_path / "in.jsonl", [{"a": "Ann"}])
    with pytest.raises(SameFile):
        scrub_file(path, tmp_path / "." / "in.jsonl", detect=DETECT)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "Ann"}


def test_the_operator_decides_what_is_written(tmp_path):
    jsonl(tmp_path / "in.jsonl", [{"a": "Ann", "b": ["Ann again"]}])
    pii = PiiSpec(operator="pseudonym")
    scrub_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", pii=pii, key="the key of these tests", detect=DETECT)
    [row] = read_rows(tmp_path / "out.jsonl")
    assert row["b"] == [f"{row['a']} again"]
    assert row["a"] not in ("Ann", "<PERSON>")


def test_without_its_key_nothing_is_written(tmp_path):
    jsonl(tmp_path / "in.jsonl", [{"a": "Ann"}])
    with pytest.raises(NoKey):
        scrub_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", pii=PiiSpec(operator="hash"), detect=DETECT)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
