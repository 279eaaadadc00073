from pathlib import Path

import pytest

from fine_tune_pipeline.guide.objective.task import (
    Task,
    UnreadableTask,
    UnusableLabels,
    UnusableSchema,
    classification,
    extraction,
    normalised_label,
    read_task,
)
from fine_tune_pipeline_tests.guide.objective.use_cases import SCHEMA, use_case

LABELS = classification(["card_lost", "refund"])
FIELDS = extraction(SCHEMA)


def test_task_is_read_from_the_schema_file_beside_the_yaml(tmp_path: Path):
    task = read_task(use_case(tmp_path))
    assert (task.type, task.schema, task.labels) == ("extraction", SCHEMA, None)
    assert task.classes == ["card_lost", "refund", "login"]


def test_labels_are_read_from_the_yaml_or_from_a_file(tmp_path: Path):
    (tmp_path / "labels.json").write_text('["a", "b"]', encoding="utf-8")
    inline = use_case(tmp_path, task={"type": "classification", "labels": ["a", "b"]}, success=[{"metric": "accuracy", "at_least": 0.5}])
    filed = use_case(tmp_path, task={"type": "classification", "labels": "labels.json"}, success=[{"metric": "accuracy", "at_least": 0.5}])
    assert read_task(inline) == read_task(filed) == classification(["a", "b"])


@pytest.mark.parametrize("written", ["card_lost", " Card lost. ", '"CARD-LOST"', "`card  lost`"])
def test_spelling_of_a_label_does_not_matter(written: str):
    assert LABELS.class_of(written) == "card_lost"
    assert LABELS.problem(written) is None


@pytest.mark.parametrize("text", ["", "lost", "card_lost or refund", "cardlost"])
def test_text_that_is_no_label_has_no_class_and_a_problem_that_lists_the_labels(text: str):
    assert LABELS.class_of(text) == ""
    assert "card_lost, refund" in (LABELS.problem(text) or "")


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        ("card_lost", "not JSON"),
        ('["card_lost"]', "is a list"),
        ('{"intent": "card_lost"}', "'urgency' is a required property"),
        ('{"intent": "lost", "urgency": "low"}', "intent: 'lost' is not one of"),
        ('{"intent": "refund", "urgency": "low", "mood": 1}', "'mood' was unexpected"),
        ('{"intent": "refund", "urgency": "low", "amount": NaN}', "not JSON"),
        ("null", "not JSON"),
    ],
)
def test_extraction_problem_says_what_is_wrong(completion: str, said: str):
    assert said in (FIELDS.problem(completion) or "nothing")


def test_class_of_an_extraction_is_its_first_field_with_a_closed_list():
    assert FIELDS.class_of('{"urgency": "low", "intent": "refund"}') == "refund"
    assert FIELDS.class_of('{"urgency": "low", "intent": "unheard of"}') == ""
    assert FIELDS.class_of("refund") == ""
    assert FIELDS.problem('{"urgency": "low", "intent": "refund", "amount": 3.5}') is None


def test_values_of_a_closed_list_that_are_no_strings_are_classes_too():
    task = extraction({"type": "object", "properties": {"stars": {"enum": [1, 2, None]}}})
    assert task.classes == ["1", "2", "null"]
    assert task.class_of('{"stars": 2}') == "2"
    assert task.class_of('{"stars": null}') == "null"


def test_instruction_names_every_key_and_its_allowed_values():
    said = FIELDS.instruction("Sort the mail.")
    assert said.startswith("Sort the mail.\nAnswer with JSON only")
    assert "- intent: one of card_lost, refund, login\n" in said
    assert "- amount: money that is named; number (may be left out)" in said
    assert "card_lost, refund" in LABELS.instruction("Sort the mail.")


def test_open_task_takes_any_text_but_none():
    task = Task(type="question_answering")
    assert task.problem("Paris") is None
    assert task.problem("  \n") is not None
    assert task.classes == []
    assert task.class_of("Paris") == ""


def test_schema_with_references_inside_is_used_and_one_outside_is_refused():
    inside = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "integer"}}}
    assert "is not of type 'integer'" in (extraction(inside).problem('{"a": "x"}') or "")
    with pytest.raises(UnusableSchema, match="never fetched"):
        extraction({"type": "object", "properties": {"a": {"$ref": "https://example.org/a.json"}}})


@pytest.mark.parametrize(
    "schema",
    [[], {}, {"type": "object"}, {"type": "array", "properties": {"a": {}}}, {"type": "object", "properties": {"a": {"type": "text"}}}],
)
def test_unusable_schema_is_refused_with_its_file(tmp_path: Path, schema: object):
    with pytest.raises(UnusableSchema, match=r"schema\.json"):
        read_task(use_case(tmp_path, schema=schema))


@pytest.mark.parametrize("labels", [[], ["one"], ["a", ""], ["a", 1], {"a": 1}, ["Card lost", "card_lost"]])
def test_unusable_labels_are_refused(labels: object):
    with pytest.raises(UnusableLabels, match=r"objective\.task\.labels"):
        classification(labels)


def test_missing_and_broken_files_are_named(tmp_path: Path):
    spec = use_case(tmp_path)
    (tmp_path / "schema.json").write_text("{", encoding="utf-8")
    with pytest.raises(UnreadableTask, match="is not JSON"):
        read_task(spec)
    (tmp_path / "schema.json").unlink()
    with pytest.raises(UnreadableTask, match="is not there"):
        read_task(spec)


def test_normalising_a_label_twice_changes_nothing():
    once = normalised_label(' "Top-Up  by.Card." ')
    assert once == normalised_label(once) == "top_up_by.card"


def test_deeply_nested_json_is_a_problem_and_no_crash():
    assert FIELDS.problem("[" * 100_000) is not None
