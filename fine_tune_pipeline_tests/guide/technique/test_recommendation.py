from dataclasses import replace
from typing import Any

import pytest

from fine_tune_pipeline.guide.technique.recommendation import Growth, Missed, Question, Recommendation, Seen, by_cost, overridden, recommend
from fine_tune_pipeline.spec.evaluation import OverrideSpec

ASKED = Question("accuracy", rows=3080, smallest_gain=0.02, share=True)
MISSED = Missed("accuracy at least 0.9", "0.810 on 3080 rows; with 95 % confidence it is at most 0.822", open=False)
OPEN = replace(MISSED, reason="between 0.89 and 0.91", open=True)


def seen(system: str, estimate: float, **changes: Any) -> Seen:
    facts = {"lower": estimate - 0.01, "upper": estimate + 0.01, "seconds": 100.0, "lead": None if system == "fine_tuned" else 0.5}
    return Seen(system, estimate, **{**facts, **changes})


TUNED = seen("fine_tuned", 0.91, seconds=400.0)
FEW_SHOT = seen("base_few_shot", 0.30, seconds=900.0, missed=(MISSED,))

TABLE = {
    # What banking77 gave: MiniLM + logistic regression 92.6 % in seconds.
    "classifier": (
        [seen("classifier", 0.926, seconds=20.0, lead=-0.005), FEW_SHOT, TUNED],
        "A plain classifier is the better buy: the plain classifier is right in 92.6% of the cases (accuracy, 95 % interval 91.6% to "
        "93.6%, 3080 rows) and meets every target; the fine-tuned model is right in 91.0% of the cases (accuracy, 95 % interval 90.0% to "
        "92.0%, 3080 rows), so fine-tuning is behind; 1,000 requests take 20 s against 400 s.",
    ),
    "prompt": (
        [replace(FEW_SHOT, missed=(), estimate=0.90, lead=0.015), TUNED],
        "so fine-tuning leads by at most 0.015, and a gain below 0.02 does not matter to you; 1,000 requests take 900 s against 400 s.",
    ),
    "retrieve": ([seen("base_retrieval", 0.91, lead=0.01), FEW_SHOT, TUNED], "Retrieval is enough: the base model with what was looked up"),
    "fine_tune": (
        [seen("classifier", 0.8, missed=(MISSED,)), FEW_SHOT, TUNED],
        "Fine-tuning pays: the fine-tuned model is right in 91.0% of the cases",
    ),
}


@pytest.mark.parametrize("choice", TABLE)
def test_each_verdict_is_said_with_its_figures(choice: str):
    systems, said = TABLE[choice]
    found = recommend(systems, ASKED)
    assert (found.choice, found.meets) == (choice, True)
    assert said in found.sentence


def test_a_system_that_meets_everything_is_not_enough_while_tuning_may_lead_by_what_matters():
    found = recommend([seen("classifier", 0.90, lead=0.03), TUNED], ASKED)
    assert (found.choice, found.system) == ("fine_tune", "fine_tuned")


@pytest.mark.parametrize(
    ("more", "system"), [((), "base_few_shot"), ((Missed("follows_style at least 0.8", "0.708", open=False),), "fine_tuned")]
)
def test_while_nothing_is_enough_a_close_system_is_nearest_only_if_it_misses_nothing_that_the_tuned_one_meets(more, system):
    close = replace(FEW_SHOT, estimate=0.80, lead=0.015, missed=(MISSED, *more))
    found = recommend([close, replace(TUNED, estimate=0.81, missed=(MISSED,))], ASKED)
    assert (found.system, found.meets) == (system, False)


def test_of_systems_that_are_enough_the_cheapest_is_taken():
    both = [seen("classifier", 0.93, seconds=50.0, lead=0.0), seen("word_classifier", 0.91, seconds=1.0, lead=0.01), TUNED]
    assert recommend(both, ASKED).system == "word_classifier"


@pytest.mark.parametrize(("currency", "first"), [("USD", "base_few_shot"), ("EUR", "classifier")])
def test_money_orders_only_where_all_have_a_price_in_one_currency(currency: str, first: str):
    systems = [
        seen("classifier", 0.9, seconds=1.0, cost=5.0, currency="USD"),
        seen("base_few_shot", 0.9, seconds=9.0, cost=1.0, currency=currency),
    ]
    assert by_cost(systems)[0].system == first


def test_a_model_that_is_served_with_context_is_recommended_as_hybrid():
    found = recommend([FEW_SHOT, TUNED], replace(ASKED, tuned_as="hybrid"))
    assert found.choice == "hybrid"
    assert found.sentence.startswith("Fine-tuning with retrieval pays: ")


def test_a_missed_objective_asks_for_rows_while_more_of_them_still_help():
    growth = Growth(rows=10_000, gain=0.02, lower=0.012, upper=0.03)
    missed = replace(TUNED, estimate=0.81, missed=(MISSED,))
    found = recommend([FEW_SHOT, missed], replace(ASKED, growth=growth))
    assert (found.choice, found.meets) == ("more_data", False)
    assert "the plain classifier gained 0.020, at least 0.012 when its training rows were doubled to 10000" in found.sentence
    assert recommend([FEW_SHOT, missed], replace(ASKED, growth=replace(growth, lower=-0.001))).choice == "fine_tune"


def test_an_open_objective_asks_for_test_rows_if_they_are_too_few_else_it_cannot_tell():
    systems = [FEW_SHOT, replace(TUNED, missed=(OPEN,))]
    small = recommend(systems, replace(ASKED, detectable=0.05))
    assert (small.choice, small.meets) == ("more_data", False)
    assert "these rows would show a gain of 0.050, and one of 0.02 matters" in small.sentence
    large = recommend(systems, replace(ASKED, detectable=0.015))
    assert large.choice == "cannot_tell"
    assert "`accuracy at least 0.9` is open (between 0.89 and 0.91)" in large.sentence


def test_rows_that_were_looked_at_too_often_recommend_nothing():
    found = recommend([seen("classifier", 0.93, lead=0.0), TUNED], replace(ASKED, worn="these rows have been looked at 6 times"))
    assert (found.choice, found.meets) == ("cannot_tell", False)
    assert "looked at 6 times" in found.sentence


def test_the_best_is_named_with_what_it_misses_when_none_is_enough():
    behind = replace(TUNED, estimate=0.80, missed=(MISSED,))
    found = recommend([seen("classifier", 0.85, missed=(MISSED,), lead=-0.01), FEW_SHOT, behind], ASKED)
    assert (found.choice, found.system, found.meets) == ("classifier", "classifier", False)
    assert found.sentence.startswith("Not yet: the fine-tuned model is right in 80.0%")
    assert "and misses `accuracy at least 0.9`" in found.sentence
    assert "Mind that the plain classifier, far cheaper to run, is ahead in accuracy (0.850 against 0.800)." in found.sentence


def test_where_less_is_better_the_lowest_is_the_best():
    low, high = replace(TUNED, estimate=0.4, missed=(MISSED,)), seen("base_few_shot", 0.2, missed=(MISSED,), lead=-0.1)
    assert recommend([high, low], replace(ASKED, higher_is_better=False)).system == "base_few_shot"


def test_majority_is_never_recommended():
    assert recommend([seen("majority", 0.99, seconds=0.0, lead=-0.1), TUNED], ASKED).system == "fine_tuned"


def test_every_system_stands_in_the_table_with_its_cost_the_cheapest_first():
    found = recommend([FEW_SHOT, seen("classifier", 0.926, seconds=20.0, lead=0.0), TUNED], ASKED)
    assert [(row["system"], row["meets"]) for row in found.seen] == [("classifier", True), ("fine_tuned", True), ("base_few_shot", False)]
    assert found.seen[2]["missing"] == ["accuracy at least 0.9"]


@pytest.mark.parametrize(
    ("decided", "said"),
    [
        ("fine_tune", "The use case decides for fine_tune instead of classifier: the classifier cannot run on the phone."),
        ("classifier", "The use case decides for it too: the classifier cannot run on the phone."),
    ],
)
def test_a_decision_against_the_rule_is_shown_beside_it(decided: Any, said: str):
    rule = Recommendation("classifier", "A plain classifier is the better buy: x.", "classifier", meets=True)
    found = overridden(rule, OverrideSpec(recommendation=decided, reason="the classifier cannot run on the phone."))
    assert found.choice == "classifier"
    assert found.sentence == f"A plain classifier is the better buy: x. {said}"
    assert found.override == {"recommendation": decided, "reason": "the classifier cannot run on the phone."}
