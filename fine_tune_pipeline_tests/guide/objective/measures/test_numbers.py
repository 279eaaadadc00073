import json
import random
from decimal import Decimal

import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.objective.measures.numbers import numbers_in
from fine_tune_pipeline.guide.objective.metrics import score_one
from fine_tune_pipeline.guide.objective.task import Task, extraction

TEXT = Task(type="generation")
FIELDS = extraction({"type": "object", "properties": {"revenue": {"type": "number"}, "outlook": {"type": "string"}}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("revenue of $1.2 billion", [("1200000000", "USD")]),
        ("revenue of $1.2bn", [("1200000000", "USD")]),
        ("1,234.5 euros, -3 and −4", [("1234.5", "EUR"), ("-3", ""), ("-4", "")]),
        ("up 12%, or 12 percent, or 50 basis points", [("12", "%"), ("12", "%"), ("0.5", "%")]),
        ("£5m, 300k, 5 m", [("5000000", "GBP"), ("300000", ""), ("5", "")]),
        ("-$0.15 a share", [("-0.15", "USD")]),
        ("10-12 in Q3, v2", [("10", ""), ("12", "")]),
        ("nothing", []),
    ],
)
def test_numbers_are_read_with_unit_and_scale(text: str, expected: list[tuple[str, str]]):
    assert [(number.value, number.unit) for number in numbers_in(text)] == [(Decimal(value), unit) for value, unit in expected]


def test_every_way_of_writing_an_amount_is_the_same_number():
    draw = random.Random(0)
    for _ in range(200):
        tenths = draw.randint(1, 99_999)
        whole = tenths * 100_000
        written = [
            f"${tenths / 10:,.1f} million",
            f"${tenths / 10:.1f}m",
            f"${whole:,}",
            f"{whole} dollars",
            f"{tenths / 10000:.4f} bn USD",
        ]
        assert {next(numbers_in(one)) for one in written} == {(Decimal(whole), "USD")}


def score(name: str, prediction: str, reference: str, task: Task, *, prompt: str = "") -> float:
    return score_one(prediction, reference, task=task, metrics=[name], example=Example("r1", prompt, reference))[name]


def test_number_match_counts_value_unit_and_scale():
    right = "Revenue rose 12% to $1.2 billion."
    assert score("number_match", "It grew by 12 percent, to $1,200 million", right, TEXT) == 1
    assert score("number_match", "It grew by 12%, to $1.2 million", right, TEXT) == 0.5
    assert score("number_match", "It grew by 12, to 1.2 billion", right, TEXT) == 0
    assert score("number_match", "It grew", right, TEXT) == 0
    assert score("number_match", "fine", "good", TEXT) == 1


def test_number_match_of_an_object_looks_at_the_field():
    right = json.dumps({"revenue": 12, "outlook": "3% growth"})
    assert score("number_match", json.dumps({"outlook": "growth of 3 %", "revenue": 12.0}), right, FIELDS) == 1
    assert score("number_match", json.dumps({"outlook": "12", "revenue": 3}), right, FIELDS) == 0


def test_unsupported_numbers_are_those_that_the_prompt_does_not_hold():
    prompt = "Sales were $1.2 billion, up 12%, in two regions; 5,000 people."
    assert score("unsupported_numbers", "1,200 million, +0.12, 2 regions, five thousand", "", TEXT, prompt=prompt) == 0
    assert score("unsupported_numbers", "1.3 billion and 5000", "", TEXT, prompt=prompt) == 0.5
    assert score("unsupported_numbers", '{"revenue": 1200, "outlook": "13%"}', "{}", FIELDS, prompt=prompt) == 0.5
    assert score("unsupported_numbers", "no number", "", TEXT, prompt=prompt) == 0
