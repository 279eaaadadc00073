import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.errors import INVALID, Confusion, class_lines, confusions, example_lines
from fine_tune_pipeline.guide.evaluation.figure import share_of
from fine_tune_pipeline.guide.evaluation.scoring import scored
from fine_tune_pipeline.guide.objective.task import Task, classification, extraction
from fine_tune_pipeline_tests.guide.evaluation.world import SCHEMA, answer

LABELS = classification(["a", "b", "c"])
FIELDS = extraction(SCHEMA)


def rows(*labels: str) -> list[Example]:
    return [Example(str(number), f"prompt {number}", label) for number, label in enumerate(labels)]


def test_classes_stand_worst_first_with_what_was_there_to_learn():
    test = rows("a", "a", "b", "b", "b")
    answers = {"fine_tuned": ["a", "a", "b", "c", "?"], "base_few_shot": ["b", "a", "b", "b", "b"]}
    lines = class_lines(test, answers, task=LABELS, train=rows("a", "b", "b", "c"))
    assert [(line.name, line.rows, line.training_rows) for line in lines] == [("b", 3, 2), ("a", 2, 1)]
    assert lines[0].found == {"fine_tuned": pytest.approx(1 / 3), "base_few_shot": 1.0}


def test_classes_and_confusions_carry_rows_and_intervals():
    test = rows("a", "a", "b", "b", "b")
    (line, _) = class_lines(test, {"fine_tuned": ["a", "a", "b", "c", "c"]}, task=LABELS, train=[])
    assert line.row()["found"]["fine_tuned"] == share_of([True, False, False])
    (confusion,) = confusions(test, ["a", "a", "b", "c", "c"], task=LABELS)
    assert (confusion.rows, confusion.share) == (2, share_of([True, True, False]))


def test_open_task_has_no_classes_and_no_confusions():
    assert class_lines(rows("x"), {"fine_tuned": ["y"]}, task=Task(type="generation"), train=[]) == []
    assert confusions(rows("x"), ["y"], task=Task(type="generation")) == []


def test_confusions_of_labels_are_counted_most_frequent_first():
    found = confusions(rows("a", "a", "b", "c"), ["b", "B", "b", "??"], task=LABELS)
    assert found == [Confusion("label", "a", "b", 2), Confusion("label", "c", INVALID, 1)]


def test_confusions_of_an_extraction_are_by_field():
    test = rows(answer("refund", "low"), answer("login", "high"), answer("login", "high"))
    found = confusions(test, [answer("refund", "high"), answer("fees", "high"), "no JSON"], task=FIELDS)
    assert Confusion("urgency", "low", "high", 1) in found
    assert Confusion("intent", "login", "fees", 1) in found
    assert {Confusion("intent", "login", INVALID, 1), Confusion("urgency", "high", INVALID, 1)} <= set(found)
    assert len(found) == 4


def test_examples_show_what_was_gained_lost_and_is_still_wrong():
    test = rows("a", "b", "c", "a")
    answers = {"fine_tuned": ["a", "c", "a", "a"], "base_few_shot": ["b", "b", "a", "a"]}
    scores = scored(test, answers, task=LABELS, metrics=["accuracy"])
    lines = example_lines(scores, answers, metric="accuracy", base="base_few_shot")
    assert [(line.kind, line.id, line.base, line.fine_tuned) for line in lines] == [
        ("gained", "0", "b", "a"),
        ("lost", "1", "b", "c"),
        ("still wrong", "2", "a", "a"),
    ]
