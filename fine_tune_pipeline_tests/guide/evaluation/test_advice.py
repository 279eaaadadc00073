import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.advice import next_steps, recommend
from fine_tune_pipeline.guide.evaluation.errors import class_lines, confusions
from fine_tune_pipeline.guide.evaluation.scoring import Scores, scored
from fine_tune_pipeline.guide.evaluation.verdicts import verdicts
from fine_tune_pipeline.guide.objective.task import classification
from fine_tune_pipeline.guide.technique.recommendation import Recommendation
from fine_tune_pipeline.programs.requests import TrainResult
from fine_tune_pipeline.spec.objective import ObjectiveSpec
from fine_tune_pipeline_tests.guide.evaluation.world import train_result

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


def steps(
    texts: list[str],
    *,
    training: TrainResult | None = None,
    unfinished: float = 0.0,
    classifier: list[str] | None = None,
    other_bases: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    given = {"base_few_shot": answers(50), "fine_tuned": texts, **({"classifier": classifier} if classifier else {})}
    scores = scored(ROWS, given, task=TASK, metrics=["accuracy", "valid_label"])
    wanted = objective()
    return next_steps(
        scores,
        verdicts(scores, wanted),
        metric="accuracy",
        classes=class_lines(ROWS, given, task=TASK, train=ROWS[:30]),
        confused=confusions(ROWS, texts, task=TASK),
        training=training or train_result(validation_losses=((0, 3.0), (20, 0.4))),
        unfinished=unfinished,
        other_bases=other_bases,
    )


LARGER = {"id": "qwen3-0.6b", "kind": "larger", "reason": "2.2 times the parameters", "candidate": False}


@pytest.mark.parametrize(("right", "proposed"), [(40, True), (200, False)])
def test_another_base_model_is_proposed_last_and_only_when_the_objective_is_missed(right: int, proposed: bool):
    found = steps(answers(right), other_bases=[LARGER, {**LARGER, "id": "smollm2-135m"}])
    wanted = "try a larger base model, qwen3-0.6b (2.2 times the parameters): add it to base_model.candidates."
    assert (wanted in found[-1:]) is proposed
    assert not any("smollm2" in said for said in found)


def test_another_base_model_that_is_a_candidate_already_is_to_be_put_first():
    found = steps(answers(40), other_bases=[{**LARGER, "candidate": True}])
    assert found[-1].endswith("it stands in base_model.candidates: put it first.")


def test_nothing_is_proposed_when_nothing_stands_out():
    assert steps(answers(200)) == []


def test_invalid_answers_propose_constrained_decoding():
    assert "10.0% of the answers fail valid_label: constrain decoding" in steps(answers(180))[0]


@pytest.mark.parametrize(
    ("losses", "final", "said"),
    [
        (((0, 3.0), (10, 0.4), (20, 0.6)), 0.3, "validation loss rose from 0.400 to 0.600"),
        (((0, 3.0), (10, 0.7), (20, 0.69)), 0.1, "far above training loss 0.100"),
        (((0, 3.0), (10, 0.9), (20, 0.5)), 0.4, "still fell at the end (0.900 to 0.500)"),
    ],
)
def test_losses_propose_longer_or_shorter_training(losses: tuple[tuple[int, float], ...], final: float, said: str):
    found = steps(answers(200), training=train_result(validation_losses=losses, final_loss=final))
    assert len(found) == 1
    assert said in found[0]


def test_a_loss_that_rose_is_no_advice_when_the_best_weights_were_kept():
    rose = train_result(validation_losses=((0, 3.0), (10, 0.4), (20, 0.6)), final_loss=0.3, best_step=10)
    assert steps(answers(200), training=rose) == []


def test_classes_that_hold_the_errors_are_named_with_their_training_rows():
    texts = ["b" if row.completion == "c" and place % 2 else row.completion for place, row in enumerate(ROWS)]
    found = steps(texts)
    assert "100% of the wrong classes come from c (50% of 66 found, 10 training rows)" in found[0]
    assert "label c is answered as b in 33 rows" in found[1]


def test_answers_cut_at_the_limit_and_an_equal_classifier_are_said():
    found = steps(answers(200), unfinished=0.05, classifier=answers(200))
    assert "5.0% of the answers were cut" in found[0]
    assert "plain classifier is at least as good" in found[1]
