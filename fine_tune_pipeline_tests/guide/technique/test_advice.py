import pytest

from fine_tune_pipeline.guide.objective.task import extraction
from fine_tune_pipeline.guide.technique.advice import Spent, advise
from fine_tune_pipeline.guide.technique.recommendation import can_pay
from fine_tune_pipeline.spec.objective import Criterion
from fine_tune_pipeline_tests.guide.technique.stand_ins import SCHEMA

TASK = extraction(SCHEMA)


def share(right: int, rows: int = 60) -> dict[str, list[float]]:
    return {"exact_match": [1.0] * right + [0.0] * (rows - right), "valid_json": [1.0] * rows}


def advice(scores: dict[str, dict[str, list[float]]], *criteria: Criterion):
    return advise(scores, criteria, task=TASK, level=0.95)


AT_LEAST = Criterion(metric="exact_match", at_least=0.65)


def test_a_system_that_meets_everything_by_its_bound_makes_tuning_unnecessary():
    found = advice({"majority": share(10), "classifier": share(58), "base_few_shot": share(60)}, AT_LEAST)
    assert not can_pay(found)
    assert found.sentence.startswith("Fine-tuning is not needed: classifier already meets every criterion")
    assert "exact_match at least 0.65 (0.967, bound 0.9" in found.sentence


def test_a_mean_above_the_target_is_not_enough_when_its_bound_is_below():
    found = advice({"base_few_shot": share(42)}, AT_LEAST)
    assert can_pay(found)
    assert "(0.700, bound 0.59" in found.sentence


def test_the_nearest_system_is_named_with_its_figures():
    found = advice({"majority": share(5), "classifier": share(40), "base_zero_shot": share(0)}, AT_LEAST)
    assert "The nearest is classifier: exact_match at least 0.65 (0.667" in found.sentence


def test_all_criteria_and_guards_must_hold():
    scores = share(60) | {"valid_json": [1.0] * 50 + [0.0] * 10}
    assert can_pay(advice({"base_few_shot": scores}, AT_LEAST, Criterion(metric="valid_json", at_least=0.97)))


@pytest.mark.parametrize(("right", "pays"), [(58, False), (30, True)])
def test_a_gain_over_another_system_is_judged_row_by_row(right, pays):
    beats = Criterion(metric="exact_match", beats="base_few_shot", by=0.1)
    found = advice({"classifier": share(right), "base_few_shot": share(20)}, Criterion(metric="exact_match", at_least=0.3), beats)
    assert can_pay(found) is pays


def test_a_system_is_not_asked_to_beat_itself():
    beats = Criterion(metric="exact_match", beats="base_few_shot", by=0.1)
    assert not can_pay(advice({"base_few_shot": share(60)}, AT_LEAST, beats))
    assert can_pay(advice({"base_few_shot": share(60)}, beats))


def test_an_upper_limit_is_judged_by_the_upper_bound():
    from fine_tune_pipeline.guide.objective.task import Task

    limit = Criterion(metric="edit_rate", at_most=0.2)
    task = Task(type="generation")
    low, high = {"edit_rate": [0.0] * 60}, {"edit_rate": [0.19] * 60}
    assert not can_pay(advise({"base_zero_shot": low}, [limit], task=task, level=0.95))
    assert can_pay(advise({"base_zero_shot": high}, [limit], task=task, level=0.95))


def test_a_guard_against_a_system_is_judged_by_its_margin():
    scores = {"classifier": share(58), "base_few_shot": share(30)}
    guard = Criterion(metric="valid_json", versus="base", margin=0.3)
    found = advice(scores, Criterion(metric="exact_match", at_least=0.1), guard)
    assert not can_pay(found)
    assert "valid_json not worse than base by more than 0.3 (0.000, bound -0." in found.sentence


def test_while_criteria_wait_for_step_7_nothing_is_said_to_meet_everything():
    found = advise({"base_few_shot": share(60)}, [AT_LEAST], task=TASK, level=0.95, later=["macro_f1 at least 0.5"])
    assert can_pay(found)
    assert found.sentence.endswith("Judged in step 7 only: macro_f1 at least 0.5.")


def test_of_two_that_are_enough_the_cheaper_is_named():
    scores = {"classifier": share(58), "base_zero_shot": share(60)}
    costs = {"classifier": Spent(seconds=30.0), "base_zero_shot": Spent(seconds=2.0)}
    found = advise(scores, [AT_LEAST], task=TASK, level=0.95, spent=costs)
    assert (found.choice, found.system) == ("prompt", "base_zero_shot")
    assert advise(scores, [AT_LEAST], task=TASK, level=0.95).choice == "classifier"


def test_rows_that_could_show_nothing_are_said_to_tell_nothing():
    found = advise({"classifier": share(8, rows=10)}, [Criterion(metric="exact_match", at_least=0.9)], task=TASK, level=0.95)
    assert (found.choice, can_pay(found)) == ("cannot_tell", True)
    assert "10 rows without a fault show exact_match of at least 0.78" in found.sentence


def test_a_model_that_will_be_trained_with_context_is_called_hybrid():
    assert advise({"classifier": share(20)}, [AT_LEAST], task=TASK, level=0.95, tuned_as="hybrid").choice == "hybrid"
