import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.objective.metrics import metric_named, score_one
from fine_tune_pipeline.guide.objective.task import Task

TASK = Task(type="preference")
ROW = Example("r1", "When?", "We will call you today.", rejected="Wait.")
NAMES = ["preference_accuracy", "preference_accuracy_per_token"]


def measured(preferred: float, rejected: float, preferred_tokens: int, rejected_tokens: int) -> dict[str, float]:
    return {
        "preferred_logprob": preferred,
        "rejected_logprob": rejected,
        "preferred_tokens": float(preferred_tokens),
        "rejected_tokens": float(rejected_tokens),
    }


@pytest.mark.parametrize(
    ("numbers", "whole", "per_token"),
    [
        (measured(-5, -6, 5, 6), 1.0, 0.5),
        (measured(-6, -5, 12, 2), 0.0, 1.0),
        (measured(-5, -6, 2, 6), 1.0, 0.0),
        (measured(-5, -5, 5, 5), 0.5, 0.5),
        ({}, 0.5, 0.5),
    ],
    ids=["likelier as a whole", "longer but likelier per token", "shorter", "equal", "no likelihood"],
)
def test_the_likelier_answer_counts_as_a_whole_or_by_token(numbers: dict[str, float], whole: float, per_token: float):
    found = score_one("anything", ROW.completion, task=TASK, metrics=NAMES, example=ROW, measured=numbers)
    assert found == dict(zip(NAMES, (whole, per_token), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_only_rows_with_two_answers_count_and_no_validation_row_is_weighed(name: str):
    metric = metric_named(name, TASK)
    assert [metric.counted(row) for row in (ROW, Example("r2", "?", "yes"))] == [True, False]
    assert not metric.averaged
