from dataclasses import replace

import pytest

from fine_tune_pipeline.artifacts.comparisons import NoComparisons
from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.technique.comparisons import said, work_of
from fine_tune_pipeline.guide.technique.workload import workload
from fine_tune_pipeline.spec.training import TrainingSpec

PLAIN = [Example("1", "how much", "ten euros"), Example("2", "where", "in Rome")]
TRAIN = [replace(PLAIN[0], rejected="much, far more than anyone would like to pay for it"), PLAIN[1]]


def spec(type: str | None) -> TrainingSpec:
    return TrainingSpec(preference=None if type is None else {"type": type})


def test_without_comparisons_the_right_answers_are_the_work():
    assert work_of(TRAIN, PLAIN, training=spec(None)) == workload(TRAIN, PLAIN)


@pytest.mark.parametrize("type", ["dpo", "orpo"])
def test_a_pair_is_one_row_with_the_tokens_of_both_answers(type):
    found = work_of(TRAIN, TRAIN, training=spec(type))
    both = workload([TRAIN[0], replace(TRAIN[0], completion=str(TRAIN[0].rejected))])
    assert (found.rows, found.tokens, found.unwanted) == (1, both.tokens, 1)
    assert (found.longest_bound, found.longest_tokens) == (both.longest_bound, both.longest_tokens)
    assert found.longest_bound > workload(PLAIN).longest_bound


def test_for_kto_each_answer_is_a_row():
    found = work_of(TRAIN, TRAIN, training=spec("kto"))
    assert (found.rows, found.unwanted) == (3, 1)


@pytest.mark.parametrize(("train", "validation", "where"), [(PLAIN, TRAIN, "training rows"), (TRAIN, PLAIN, "validation rows")])
def test_data_that_compares_nothing_is_refused(train, validation, where):
    with pytest.raises(NoComparisons, match=f"{where}: none of 2 rows has a rejected answer.*layout: preference"):
        work_of(train, validation, training=spec("dpo"))


def test_how_many_rows_can_be_compared_is_said():
    assert said(TRAIN) == "1 of 2 training rows have a rejected answer"


def test_learning_the_prompt_has_no_place_where_answers_are_compared():
    with pytest.raises(ValueError, match="loss_on: got all with preference: dpo"):
        TrainingSpec(preference={"type": "dpo"}, loss_on="all")
    assert TrainingSpec(preference={"type": "orpo"}, loss_on="all").loss_on == "all"
