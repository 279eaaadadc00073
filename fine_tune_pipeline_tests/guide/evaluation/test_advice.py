import random
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.advice import recommend
from fine_tune_pipeline.guide.evaluation.scoring import Scores, scored
from fine_tune_pipeline.guide.evaluation.verdicts import verdicts
from fine_tune_pipeline.guide.objective.task import classification
from fine_tune_pipeline.guide.technique.recommendation import Recommendation
from fine_tune_pipeline.spec.objective import ObjectiveSpec

TASK = classification(["a", "b", "c"])
ROWS = [Example(str(number), "?", "abc"[number % 3]) for number in range(200)]


def objective(**changes: Any) -> ObjectiveSpec:
    whole = {
        "goal": "x",
        "task": {"type": "classification", "labels": ["a", "b", "c"]},
        "success": [{"metric": "accuracy", "at_least": 0.7}],
    }
    return ObjectiveSpec.model_validate({**whole, "evidence": {"smallest_gain": 0.05}, **changes})


def answers(right: int, *, other: str = "no answer") -> list[str]:
    """Right on so many rows, spread by a seed that all systems share, so that better systems are right where worse ones are."""
    order = random.Random(0).sample(range(200), 200)
    return [row.completion if order[place] < right else other for place, row in enumerate(ROWS)]


def systems(**right: int) -> Scores:
    return scored(ROWS, {name: answers(count) for name, count in right.items()}, task=TASK, metrics=["accuracy", "valid_label"])


def advice(given: Scores, **changes: Any) -> Recommendation:
    wanted = objective(**changes)
    return recommend(given, verdicts(given, wanted), wanted, metric="accuracy")


def test_fine_tuning_is_recommended_when_it_alone_meets_the_objective():
    found = advice(systems(base_zero_shot=0, base_few_shot=60, classifier=100, fine_tuned=180))
    assert found.choice == "fine_tune"
    assert "the fine-tuned model is right in 90.0% of the cases (accuracy, 95 % interval 85.1% to 93.4%, 200 rows)" in found.sentence
    assert "the plain classifier is right in 50.0%" in found.sentence
    assert "Mind" not in found.sentence


def test_prompting_is_enough_when_it_meets_the_targets_and_fine_tuning_adds_little():
    found = advice(systems(base_zero_shot=0, base_few_shot=178, fine_tuned=180))
    assert found.choice == "prompt"
    assert found.sentence.startswith("Prompting is enough: the base model with examples in its prompt")


def test_prompting_is_not_enough_while_fine_tuning_may_still_lead_by_what_matters():
    found = advice(systems(base_zero_shot=0, base_few_shot=160, fine_tuned=180))
    assert found.choice == "fine_tune"


def test_a_plain_classifier_that_does_it_is_named():
    found = advice(systems(base_zero_shot=0, base_few_shot=50, classifier=185, fine_tuned=180))
    assert found.choice == "classifier"
    assert found.sentence.startswith("A plain classifier is the better buy: the plain classifier is right in 92.5% of the cases")


def test_a_classifier_that_leads_is_named_even_if_it_is_not_enough():
    found = advice(systems(base_zero_shot=0, base_few_shot=50, classifier=120, fine_tuned=110))
    assert (found.choice, found.system, found.meets) == ("classifier", "classifier", False)
    assert found.sentence.startswith("Not yet: ")
    assert "the plain classifier, far cheaper to run, is ahead in accuracy (0.600 against 0.550)" in found.sentence


def test_missed_criterion_is_named_with_its_bound():
    found = advice(systems(base_zero_shot=0, base_few_shot=20, fine_tuned=60))
    assert (found.choice, found.meets) == ("fine_tune", False)
    assert "`accuracy at least 0.7` is not met (0.300 on 200 rows; with 95 % confidence it is at most 0.3" in found.sentence


def test_open_criterion_is_said_to_be_open():
    found = advice(systems(base_zero_shot=0, base_few_shot=20, fine_tuned=144))
    assert found.choice == "cannot_tell"
    assert found.sentence.startswith("The test set cannot tell: the fine-tuned model")


def test_nothing_cheaper_is_enough_when_no_target_says_what_enough_is():
    found = advice(systems(base_zero_shot=0, base_few_shot=100, fine_tuned=140), success=[{"metric": "accuracy", "beats": "base_few_shot"}])
    assert found.choice == "fine_tune"
