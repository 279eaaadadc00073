"""The form of the files, as judged by programs that are not ours."""

import json
import logging
from dataclasses import asdict, fields

import jsonschema
import pyarrow.parquet as pq
import pytest

from fine_tune_pipeline.artifacts.examples import Example, read_examples, read_rows, write_examples, write_rows
from fine_tune_pipeline.guide.dataset.publishing.publish import chat, published
from fine_tune_pipeline.guide.dataset.publishing.record_schema import ALWAYS, FIELDS, chat_schema, example_schema, write_parquet
from fine_tune_pipeline_tests.guide.dataset.make import FORM, FRUIT, SCHEMA, example, use_case
from fine_tune_pipeline_tests.guide.dataset.publishing.test_publish import STEPS
from fine_tune_pipeline_tests.guide.dataset.publishing.test_split import rows

CALL = {"id": "c1", "type": "function", "function": {"name": "rate", "arguments": "{}"}}
FULL = Example(
    "7", "9 %", "It is 9 %.", "talks", held_out=True, metadata={"shop": "north"}, role="tool", rejected="No idea.", licence="CC0-1.0",
    history=[{"role": "user", "content": "rate?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
    tools=[{"type": "function", "function": {"name": "rate"}}], provenance={"file": "a.jsonl", "row": "3"},
)  # fmt: skip


@pytest.fixture
def dataset(tmp_path):
    reviewed, folder = tmp_path / "reviewed", tmp_path / "dataset"
    reviewed.mkdir()
    folder.mkdir()
    write_examples(reviewed / "examples.jsonl", [*rows(199), FULL])
    write_rows(reviewed / "steps.jsonl", map(asdict, STEPS))
    published(reviewed, folder, spec=use_case(tmp_path).dataset, task=FRUIT, use_case="fruit")
    return folder


def test_schema_and_parquet_know_every_field_of_an_example_but_what_is_looked_up_later():
    assert [*FIELDS, "context"] == [field.name for field in fields(Example)]
    assert [name for name in FIELDS if name in example("1", "x").row()] == list(ALWAYS)


@pytest.mark.parametrize(("form", "schema"), [("", "example.schema.json"), (".chat", "chat.schema.json")])
def test_every_line_fits_the_schema_that_lies_beside_it(dataset, form, schema):
    rules = json.loads((dataset / schema).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(rules)
    validator = jsonschema.Draft202012Validator(rules)
    lines = [row for part in ("train", "validation", "test") for row in read_rows(dataset / f"{part}{form}.jsonl")]
    assert len(lines) == 200
    assert [error.message for line in lines for error in validator.iter_errors(line)] == []


@pytest.mark.parametrize(
    "change",
    [{"prompt": ""}, {"id": 7}, {"role": "robot"}, {"held_out": "no"}, {"extra": 1}, {"history": [{"content": "x"}]}, {"tools": ["x"]}],
)
def test_a_wrong_line_does_not_fit(change):
    validator = jsonschema.Draft202012Validator(example_schema(FRUIT))
    assert validator.is_valid(FULL.row())
    assert not validator.is_valid({**FULL.row(), **change})


@pytest.mark.parametrize("line", [{}, {"messages": []}, {"messages": [{"role": "user", "content": "x"}]}, {**chat(FULL), "extra": 1}])
def test_a_wrong_conversation_does_not_fit(line):
    validator = jsonschema.Draft202012Validator(chat_schema())
    assert validator.is_valid(chat(FULL))
    assert not validator.is_valid(line)


def test_the_schema_of_a_json_answer_is_told():
    assert example_schema(FORM)["properties"]["completion"]["contentSchema"] == SCHEMA
    assert "contentSchema" not in example_schema(FRUIT)["properties"]["completion"]


def test_parquet_holds_whole_conversations(tmp_path):
    write_parquet(tmp_path / "x.parquet", [FULL, example("8", "x")])
    full, plain = pq.read_table(tmp_path / "x.parquet").to_pylist(maps_as_pydicts="strict")
    assert {**full, **{name: json.loads(full[name]) for name in ("history", "tools")}, "context": []} == asdict(FULL)
    assert (plain["rejected"], plain["history"], plain["provenance"]) == (None, "[]", {})


# rdflib, by which mlcroissant reads JSON-LD, uses parts of itself that it has given up.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_croissant_is_valid_and_gives_the_records_back(dataset, caplog):
    croissant = pytest.importorskip("mlcroissant")
    with caplog.at_level(logging.WARNING):
        found = croissant.Dataset(jsonld=str(dataset / "croissant.json"))
    assert "context" not in caplog.text
    assert found.metadata.ctx.issues.errors == set()
    assert {record.name for record in found.metadata.record_sets} == {"train", "validation", "test"}
    for part in ("train", "validation", "test"):
        read = [{name.removeprefix(f"{part}/"): _text(value) for name, value in row.items()} for row in found.records(part)]
        wanted = read_examples(dataset / f"{part}.jsonl")
        assert [row["completion"] for row in read] == [row.completion for row in wanted]
        assert [row["held_out"] for row in read] == [row.held_out for row in wanted]
    [full] = [row for row in read if row["id"] == "7"]
    assert json.loads(full["history"]) == FULL.history
    assert full["provenance"] == [{"name": "file", "value": "a.jsonl"}, {"name": "row", "value": "3"}]


def _text(value):
    """mlcroissant gives bytes, and long names for the halves of a pair."""
    if isinstance(value, list):
        return [{name.rsplit("/", 1)[1]: _text(item) for name, item in pair.items()} for pair in value]
    return value.decode("utf-8") if isinstance(value, bytes) else value
