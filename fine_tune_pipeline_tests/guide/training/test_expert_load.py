"""The load of experts as a table, and the check that they have moved."""

import pytest

from fine_tune_pipeline.guide.training.expert_load import load_rows, moved
from fine_tune_pipeline.programs.requests import LayerLoad

EVEN = LayerLoad(layer=0, before=(0.25, 0.25, 0.5, 0.0), after=(0.25, 0.35, 0.4, 0.0))


def test_a_layer_is_one_row_with_its_busiest_experts_and_what_moved():
    assert load_rows([EVEN]) == [
        {
            "layer": 0,
            "busiest before": "2: 50%, 0: 25%, 1: 25%, 3: 0%",
            "busiest after": "2: 40%, 1: 35%, 0: 25%, 3: 0%",
            "without tokens before": 1,
            "without tokens after": 1,
            "visits moved": "10.0%",
            "did not move": "",
        }
    ]


def test_of_many_experts_the_busiest_are_named():
    many = LayerLoad(layer=0, before=tuple((number + 1) / 2080 for number in range(64)), after=(1 / 64,) * 64)
    assert load_rows([many])[0]["busiest before"].split(":")[0] == "63"
    assert load_rows([many])[0]["busiest before"].count(":") == 8


@pytest.mark.parametrize(
    ("still", "passed", "said"),
    [
        ((), True, "experts of 1 layers"),
        ((3,), True, "without any token, and so as they were: 3 of layer 0"),
        ((1, 3), False, "did not move, without being known as idle: 1 of layer 0. Train on more rows"),
    ],
)
def test_an_expert_that_got_tokens_must_have_moved(still, passed, said):
    check = moved([EVEN.model_copy(update={"still": still})])
    assert (check.passed, check.blocking) == (passed, False)
    assert said in check.description


def test_what_could_not_be_measured_is_said_and_must_have_moved_all_the_same():
    unknown = LayerLoad(layer=5, before=(), after=(), still=(2,))
    assert load_rows([unknown])[0]["visits moved"] == "not measured"
    assert moved([unknown.model_copy(update={"still": ()})]).passed
    assert "2 of layer 5" in moved([unknown]).description
    assert not moved([unknown]).passed


def test_experts_of_which_nothing_was_seen_did_not_pass():
    assert not moved([]).passed
