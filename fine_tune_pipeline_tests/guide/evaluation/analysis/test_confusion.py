import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.analysis.confusion import MOST_CLASSES, OTHER, confusion
from fine_tune_pipeline.guide.evaluation.analysis.given import NotAvailable
from fine_tune_pipeline.guide.evaluation.errors import INVALID
from fine_tune_pipeline.guide.objective.task import Task, classification
from fine_tune_pipeline_tests.guide.evaluation.analysis.make import fruit, given


def test_a_pair_has_its_share_of_the_rows_of_the_right_value_with_wilsons_interval():
    test = fruit(30)
    own = ["plum" if place in (0, 3) else row.completion for place, row in enumerate(test)]
    pair = confusion(given(test, own))["pairs"][0]
    assert (pair["wanted"], pair["given"], pair["rows"], pair["share"]["n"]) == ("apple", "plum", 2, 10)
    interval = binomtest(2, 10).proportion_ci(0.95, method="wilson")
    assert (pair["share"]["low"], pair["share"]["high"]) == pytest.approx((interval.low, interval.high))


def test_the_matrix_is_scikit_learns_with_a_column_for_invalid_answers():
    test = fruit(30)
    own = ["pear" if place % 4 == 0 else "?" if place % 7 == 0 else row.completion for place, row in enumerate(test)]
    matrix = confusion(given(test, own))["matrix"]
    assert matrix["columns"] == [*matrix["rows"], INVALID]
    answered = [text if text != "?" else INVALID for text in own]
    expected = confusion_matrix([row.completion for row in test], answered, labels=matrix["columns"])[: len(matrix["rows"])]
    assert matrix["counts"] == expected.tolist()


def test_of_many_classes_those_with_the_most_confusions_are_shown():
    names = [f"c{number:02}" for number in range(30)]
    test = [Example(f"r{place}", "p", names[place % 30]) for place in range(60)]
    own = ["c29" if row.completion in ("c11", "c12") else "c28" if row.completion == "c13" else row.completion for row in test]
    matrix = confusion(given(test, own, task=classification(names)))["matrix"]
    assert (len(matrix["rows"]), matrix["classes"], sum(map(sum, matrix["counts"]))) == (MOST_CLASSES, 30, 2 * MOST_CLASSES)
    assert {"c11", "c12", "c13", "c28", "c29"} == set(matrix["rows"][:5])
    assert OTHER not in matrix["columns"]


def test_an_open_task_has_nothing_to_confuse():
    with pytest.raises(NotAvailable, match="generation task without a closed list"):
        confusion(given(fruit(3), ["a"] * 3, task=Task(type="generation"), metric="token_f1"))
