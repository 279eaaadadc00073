from dataclasses import replace

import pytest

from fine_tune_pipeline.guide.evaluation.analysis.given import NotAvailable
from fine_tune_pipeline.guide.evaluation.analysis.label_errors import label_errors
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline_tests.guide.evaluation.analysis.make import fruit, given, no_nan, vectors

TRAIN = fruit(240, start=1000)
TRUTH = fruit(120)
PLANTED = {4: "pear", 31: "plum", 77: "apple", 110: "apple"}
TEST = [replace(row, completion=PLANTED.get(place, row.completion)) for place, row in enumerate(TRUTH)]
RIGHT = [row.completion for row in TRUTH]


def test_planted_wrong_labels_of_the_test_set_are_found_with_the_right_one():
    planted = {place: label for place, label in PLANTED.items() if label != TRUTH[place].completion}
    found = label_errors(given(TEST, RIGHT, train=TRAIN, known=vectors(TRAIN, TEST)))
    said = {line["id"]: (line["given"], line["suggested"]) for line in found["lines"]}
    assert {f"r{place}": (label, TRUTH[place].completion) for place, label in planted.items()}.items() <= said.items()
    assert len(said) <= len(planted) + 2
    assert found["flagged"]["n"] == 120
    assert [line["probability"] for line in found["lines"]] == sorted(line["probability"] for line in found["lines"])
    assert found["by"] == "words and meaning (MiniLM)"


def test_what_each_criterion_would_say_without_them_stands_beside_the_verdict_that_stays():
    world = given(TEST, RIGHT, train=TRAIN, known=vectors(TRAIN, TEST), more={"success": [{"metric": "accuracy", "at_least": 0.96}]})
    before = world.verdicts
    row = label_errors(world)["what_if"][0]
    assert (row["verdict"], row["n"]) == (before[0].verdict, 120) == ("cannot tell", 120)
    assert (row["without"], row["without_estimate"]) == ("met", 1.0)
    assert row["without_n"] < 120
    assert world.verdicts == before


def test_rows_that_were_looked_at_too_often_are_not_judged_again():
    world = replace(given(TEST, RIGHT, train=TRAIN, known=vectors(TRAIN, TEST)), worn=True)
    assert label_errors(world)["what_if"] == []


def test_words_alone_do_where_there_are_no_vectors():
    found = label_errors(given(TEST, RIGHT, train=TRAIN))
    assert found["by"] == "words"
    assert "r31" in {line["id"] for line in found["lines"]}
    assert no_nan(found)


@pytest.mark.parametrize(
    ("rows", "task", "said"),
    [
        (TEST[:20], None, "20 test rows, want at least 50"),
        (
            [replace(row, completion=TEST[-place].completion) for place, row in enumerate(TEST)],
            None,
            r"of those given they have label 0\.\d\d, want 0\.7",
        ),
        ([replace(row, completion="pear") for row in TEST], None, "all test rows have the same label"),
        (TEST, Task(type="generation"), "without a closed list of values has no labels"),
    ],
)
def test_what_cannot_be_doubted_is_said(rows, task, said: str):
    more = {} if task is None else {"task": task, "metric": "token_f1"}
    with pytest.raises(NotAvailable, match=said):
        label_errors(given(rows, ["pear"] * len(rows), train=TRAIN, **more))
