import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.held_out_rows import DuplicatedRows, NoTestRows, WrongReference, judgeable
from fine_tune_pipeline.guide.objective.task import Task, classification, extraction
from fine_tune_pipeline_tests.guide.evaluation.world import SCHEMA, answer

LABELS = classification(["card", "fees"])
GOOD = [Example("1", "?", "card"), Example("2", "?", "Fees")]


def test_rows_that_can_be_judged_come_back_as_they_are():
    assert judgeable(GOOD, LABELS, where="x/dataset") is GOOD


@pytest.mark.parametrize(
    ("rows", "task", "error", "said"),
    [
        ([], LABELS, NoTestRows, "x/dataset: the test set is empty; give `dataset.held_out`"),
        ([*GOOD, GOOD[0]], LABELS, DuplicatedRows, "1 ids stand more than once in the test set, the first is '1'"),
        ([*GOOD, Example("3", "?", "loans")], LABELS, WrongReference, "the first is '3': 'loans' is not a label of the task"),
        ([Example("1", "?", answer("loans", "low"))], extraction(SCHEMA), WrongReference, "1 test rows have an answer .* the first is '1'"),
        ([Example("1", "?", " ")], Task(type="generation"), WrongReference, "the answer is empty"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused_by_name(rows: list[Example], task: Task, error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        judgeable(rows, task, where="x/dataset")
