"""Feedback as a stream of labels that only grows."""

from dataclasses import replace
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.artifacts.traffic import Feedback, Logged
from fine_tune_pipeline.guide.deployment.monitoring.labels import Label, grown, same_answer, write_labels
from fine_tune_pipeline.guide.objective.task import Task, classification, extraction
from fine_tune_pipeline_tests.artifacts.test_traffic import ROW

LABELS = classification(["lost_card", "fees"])
OBJECT = extraction({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}})


def logged(name: str, *said: Feedback, answer: str | None = "lost_card") -> Logged:
    return Logged(replace(ROW, id=name, answer_scrubbed=answer), said)


def kept(folder: Path, labels: list[Label]) -> Artifact:
    with Store.at(str(folder)).draft("bank", content_of(asset="production_traffic", version=2, what={}, upstream={})) as draft:
        write_labels(labels, draft.folder)
        return draft.finish(Built())


@pytest.mark.parametrize(
    ("task", "answer", "wanted", "same"),
    [
        (LABELS, "Lost card.", "lost_card", True),
        (LABELS, "fees", "lost_card", False),
        (LABELS, "nothing known", "nothing known", False),
        (OBJECT, '{"a": 1, "b": "x"}', '{"b":"x","a":1}', True),
        (OBJECT, '{"a": 2}', '{"a": 1}', False),
        (Task(type="question_answering"), "two  words", "two words\n", True),
        (Task(type="question_answering"), "two words", "two", False),
    ],
)
def test_an_answer_is_right_when_it_says_what_the_correction_says(task: Task, answer: str, wanted: str, same: bool):
    assert same_answer(task, answer, wanted) is same


def test_a_correction_says_more_than_a_thumb_and_without_an_answer_it_says_nothing():
    requests = [
        logged("a", Feedback("a", thumb="up", corrected="fees")),
        logged("b", Feedback("b", thumb="up")),
        logged("c", Feedback("c", corrected="fees"), answer=None),
        logged("d", Feedback("d", corrected="lost_card"), Feedback("d", thumb="down", source="expert")),
    ]
    found = [(label.request, label.source, label.good, label.by) for label in grown(None, requests, LABELS, sources=())]
    assert found[:2] == [("a", "user", False, "corrected"), ("b", "user", True, "thumb")]
    assert found[2:] == [("d", "user", True, "corrected"), ("d", "expert", False, "thumb")]


def test_new_labels_come_after_the_old_ones_whatever_request_they_are_on_and_the_first_word_counts(tmp_path: Path):
    first = grown(None, [logged("b", Feedback("b", thumb="up"))], LABELS, sources=())
    later = [logged("a", Feedback("a", thumb="down")), logged("b", Feedback("b", thumb="down"))]
    assert [(label.request, label.good) for label in grown(kept(tmp_path, first), later, LABELS, sources=())] == [("b", True), ("a", False)]


def test_only_named_sources_count():
    requests = [logged("a", Feedback("a", thumb="up"), Feedback("a", thumb="down", source="sample"))]
    assert [label.source for label in grown(None, requests, LABELS, sources=["sample"])] == ["sample"]
