from typing import Any

import pytest
from pydantic import ValidationError

from fine_tune_pipeline.guide.objective.measures.rules import keeps, refuses, sentences
from fine_tune_pipeline.guide.objective.metrics import UnknownMetric, allowed_metrics, metric_named, score_one
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.objective import StyleRule, Voice


def rule(**demand: Any) -> StyleRule:
    return StyleRule(name="one", **demand)


@pytest.mark.parametrize(
    ("demand", "kept", "broken"),
    [
        ({"never": ["your fault"]}, "This is our default.", "That is YOUR fault, sorry."),
        ({"never": ["no"]}, "Nothing is known.", "No."),
        ({"never": ["!"]}, "Done.", "Done!!"),
        ({"always": ["kind regards", "the team"]}, "Done. Kind regards, The Team", "Kind regards"),
        ({"one_of": ["hello", "dear"]}, "Dear Ann", "Ann"),
        ({"never_matches": r"[*_#]{2}"}, "plain *text*", "**bold**"),
        ({"always_matches": r"^Dear \w+"}, "Dear Ann, done", "dear Ann, done"),
        ({"fewest_words": 2}, "two words", "one"),
        ({"most_words": 2}, "two words", "and now three"),
        ({"most_sentences": 2}, "One. Two, 3.5 of them", "One. Two? Three"),
    ],
)
def test_a_rule_tells_answers_that_keep_it_from_those_that_break_it(demand: dict[str, Any], kept: str, broken: str):
    assert keeps(rule(**demand), kept)
    assert not keeps(rule(**demand), broken)


def test_all_demands_of_a_rule_must_hold():
    both = rule(always=["regards"], most_words=2)
    assert keeps(both, "Kind regards")
    assert not keeps(both, "With kind regards")
    assert not keeps(both, "Bye")


@pytest.mark.parametrize(
    ("demand", "said"),
    [
        ({}, "demands nothing"),
        ({"never_matches": "("}, "regular expression"),
        ({"fewest_words": 3, "most_words": 2}, "is above most_words"),
    ],
)
def test_a_rule_that_cannot_be_checked_is_refused(demand: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        rule(**demand)


def test_names_in_a_voice_are_distinct():
    with pytest.raises(ValidationError, match="tone stands there twice"):
        Voice.model_validate({"rules": [{"name": "tone", "never": ["x"]}], "rubric": [{"name": "tone", "ask": "Warm?"}]})


STYLED = Task(type="question_answering", rules=(StyleRule(name="short", most_words=3), StyleRule(name="calm", never=["!"])))


def test_style_metrics_are_one_for_each_rule_and_one_for_all():
    assert {"rule.short", "rule.calm", "follows_style"} <= set(allowed_metrics(STYLED))
    names = ["rule.short", "rule.calm", "follows_style"]
    assert list(score_one("wait a bit!", "", task=STYLED, metrics=names).values()) == [1, 0, 0]
    assert list(score_one("done", "", task=STYLED, metrics=names).values()) == [1, 1, 1]


def test_without_rules_there_is_no_style_to_follow():
    assert "follows_style" not in allowed_metrics(Task(type="generation"))
    with pytest.raises(UnknownMetric, match=r"objective\.voice has no rule 'long'"):
        metric_named("rule.long", STYLED)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "As an AI language model, I have no opinion.",
        "We are unable to provide account details.",
        "Ich kann Ihnen dabei leider nicht helfen.",
        "I’m afraid I won’t be able to do that, I cannot.",
    ],
)
def test_refusals_are_recognised(text: str):
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry for the delay; your card is on its way.",
        "You cannot withdraw more than 500 a day.",
        "We can help you with that.",
        "If you can't log in, reset your password.",
        "",
    ],
)
def test_helpful_answers_are_no_refusals(text: str):
    assert not refuses(text)


def test_a_refusal_counts_only_where_the_reference_answers():
    task = Task(type="question_answering")
    no, yes = "I cannot help with that.", "Within five days."
    pairs = [(no, yes), (no, no), (yes, yes), (yes, no)]
    found = [score_one(given, wanted, task=task, metrics=["refusal"])["refusal"] for given, wanted in pairs]
    assert found == [1, 0, 0, 0]


def test_sentences_are_counted_by_their_ends():
    assert [sentences(text) for text in ("", "One", "One.", "One. Two!", "Version 3.5 is out. Yes", "第一。第二。", "A\n\nB")] == [
        0, 1, 1, 2, 2, 1, 2,
    ]  # fmt: skip
