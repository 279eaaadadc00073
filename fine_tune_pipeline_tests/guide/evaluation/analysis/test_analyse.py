from dataclasses import replace
from xml.etree import ElementTree

import pytest

from fine_tune_pipeline.guide.evaluation.analysis.analyse import PARTS, all_parts, figures
from fine_tune_pipeline.guide.evaluation.analysis.given import NotAvailable, row_metric
from fine_tune_pipeline.guide.evaluation.analysis.section import analysis_sections
from fine_tune_pipeline.guide.evaluation.scoring import scored
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline_tests.guide.evaluation.analysis.make import LABELS, fruit, given, no_nan, vectors

TRAIN, TEST = fruit(120, start=1000), fruit(150)
OPEN = Task(type="generation")


def answers(rows) -> list[str]:
    return ["?" if place % 5 == 0 else row.completion for place, row in enumerate(rows)]


def sure(rows) -> list[float]:
    return [0.3 + 0.7 * (place % 10) / 10 for place, _ in enumerate(rows)]


def test_every_part_is_there_and_has_a_section_with_rows_and_pictures():
    world = given(TEST, answers(TEST), train=TRAIN, known=vectors(TRAIN, TEST), sure=sure(TEST))
    found = all_parts(world)
    assert {name for name, part in found.items() if part["available"]} == set(PARTS)
    shown = {section.title: section for section in analysis_sections({"analysis": found})}
    assert {"Where it is weak", "What is taken for what", "The hardest rows", "Would more data help?"} <= set(shown)
    assert all(len(row.cells) == len(section.columns) for section in shown.values() for row in section.rows)
    charts = [chart for section in shown.values() for chart in section.charts]
    assert len(charts) == 3
    assert all(ElementTree.fromstring(chart).tag == "svg" for chart in charts)
    assert set(figures(found)) == {"weak_slices", "doubted_test_rows", "calibration_error", "more_data_helps"}


BAD = {
    "one row": {"test": TEST[:1]},
    "fewer rows than folds": {"test": TEST[:3]},
    "no training rows": {"test": TEST, "train": []},
    "one class only": {"test": [replace(row, completion="pear") for row in TEST]},
    "all right": {"test": TEST, "own": [row.completion for row in TEST]},
    "all wrong": {"test": TEST, "own": ["?"] * 150},
    "all prompts empty": {"test": [replace(row, prompt="") for row in TEST]},
    "an open task": {"test": TEST, "task": OPEN, "metric": "token_f1"},
    "an open task of one row": {"test": TEST[:1], "task": OPEN, "metric": "token_f1"},
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_sentence_in_the_section_and_never_a_nan(case: str):
    more = {"train": TRAIN, **BAD[case]}
    test, train = more.pop("test"), more.pop("train")
    own = more.pop("own", answers(test))
    found = all_parts(given(test, own, train=train, known=vectors(train, test) if train else None, sure=sure(test), **more))
    assert no_nan(found)
    assert all(part["available"] or len(part["why"]) > 20 for part in found.values())
    text = " ".join(section.text for section in analysis_sections({"analysis": found}))
    assert "nan" not in text.lower().split()
    assert figures(found).keys() <= {"weak_slices", "doubted_test_rows", "calibration_error", "more_data_helps"}


def test_a_report_of_before_has_no_such_sections():
    assert list(analysis_sections({})) == []


def test_a_metric_of_all_rows_is_replaced_by_one_that_scores_each():
    scores = scored(TEST, {"fine_tuned": answers(TEST)}, task=LABELS, metrics=["macro_f1", "valid_label", "recall.pear", "accuracy"])
    assert row_metric(scores, "macro_f1", LABELS) == "accuracy"
    assert row_metric(scores, "recall.pear", LABELS) == "accuracy"


def test_where_no_metric_scores_each_row_that_is_said():
    scores = scored(TEST, {"fine_tuned": answers(TEST)}, task=LABELS, metrics=["macro_f1", "valid_label"])
    with pytest.raises(NotAvailable, match="scores every row by itself"):
        row_metric(scores, "macro_f1", LABELS)
