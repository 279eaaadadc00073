from fine_tune_pipeline.guide.evaluation.analysis.hardest import LISTED, hardest
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline_tests.guide.evaluation.analysis.make import fruit, given


def test_rows_that_nobody_gets_right_come_by_the_lowest_probability():
    test = fruit(20)
    own = ["?" if place in (2, 5, 8) else row.completion for place, row in enumerate(test)]
    base = ["?" if place != 5 else row.completion for place, row in enumerate(test)]
    sure = [0.95 if place == 2 else 0.4 for place in range(20)]
    found = hardest(given(test, own, base=base, sure=sure))
    assert [line["id"] for line in found["nobody_rows"]] == ["r8", "r2"]
    assert [line["id"] for line in found["wrong_sure_rows"]] == ["r2"]
    assert (found["nobody"]["estimate"], found["nobody"]["n"]) == (0.1, 20)
    assert found["wrong_sure"]["low"] < 0.05 < found["wrong_sure"]["high"]


def test_graded_rows_come_by_the_best_score_that_any_system_has():
    test = fruit(3)
    own, base = ["apple and more", "pear", "no idea at all"], ["?", "?", "?"]
    found = hardest(given(test, own, base=base, task=Task(type="generation"), metric="token_f1"))
    assert [line["id"] for line in found["nobody_rows"]] == ["r2", "r0"]
    assert [line["best_score"] for line in found["nobody_rows"]] == [0.0, 0.5]


def test_without_probabilities_sure_and_wrong_is_left_open_and_the_list_is_short():
    found = hardest(given(fruit(30), ["?"] * 30))
    assert found["wrong_sure"] is None
    assert len(found["nobody_rows"]) == LISTED
