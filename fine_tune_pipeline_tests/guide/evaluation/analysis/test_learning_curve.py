from dataclasses import replace

import numpy as np
import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.analysis.given import NotAvailable
from fine_tune_pipeline.guide.evaluation.analysis.learning_curve import learning_curve, sizes_of
from fine_tune_pipeline.guide.evaluation.vectors import Vectors
from fine_tune_pipeline.guide.objective.task import Task, classification
from fine_tune_pipeline_tests.guide.evaluation.analysis.make import fruit, given, no_nan, vectors

ANSWERS = Task(type="question_answering")


def many(rows: int, topics: int, *, seed: int, frequent: float = 0.0) -> tuple[list[Example], np.ndarray]:
    """Rows about random ones of many topics, each a direction of its own: who has not seen a topic cannot answer it.

    Args:
        frequent: exponent of Zipf's law; 0: all topics are equally frequent.
    """
    weights = np.arange(1, topics + 1) ** -frequent
    about = np.random.default_rng(seed).choice(topics, size=rows, p=weights / weights.sum())
    found = [Example(f"{seed}-{place}", f"about {topic}", f"answer {topic}") for place, topic in enumerate(about)]
    return found, np.eye(topics, dtype=np.float32)[about]


@pytest.mark.parametrize(("detectable", "answer"), [(0.02, "yes"), (0.3, "cannot tell")])
def test_a_curve_that_still_rises_says_yes_if_the_test_rows_could_show_it(detectable: float, answer: str):
    (train, known), (test, asked) = many(400, 1000, seed=1, frequent=1.0), many(400, 1000, seed=2, frequent=1.0)
    more = {"evidence": {"smallest_gain": 0.01}}
    world = given(
        test, ["?"] * 400, task=ANSWERS, metric="exact_match", train=train, known=Vectors(range(400), known, asked),
        detectable_gain=detectable, more=more,
    )  # fmt: skip
    found = learning_curve(world)
    points = [point["estimate"] for point in found["points"]]
    assert [point["rows"] for point in found["points"]] == [48, 100, 200, 400]
    assert points == sorted(points)
    prompts = {row.prompt for row in train}
    assert points[-1] == pytest.approx(sum(row.prompt in prompts for row in test) / 400)
    assert found["answer"] == answer
    assert found["of"] == "the answer of the nearest training row"


def test_the_forecast_of_the_gain_holds_what_twice_the_rows_really_bring():
    (train, known), (test, asked) = many(800, 1000, seed=5, frequent=1.0), many(2000, 1000, seed=6, frequent=1.0)
    half = Vectors(range(400), known[:400], asked)
    found = learning_curve(given(test, ["?"] * 2000, task=ANSWERS, metric="exact_match", train=train, known=half))
    first, all_ = ({row.prompt for row in rows} for rows in (train[:400], train))
    real = sum(row.prompt in all_ and row.prompt not in first for row in test) / 2000
    assert found["doubling"]["estimate"] == pytest.approx(real, abs=0.02)


def test_a_curve_that_rises_faster_than_any_power_law_does_not_say_no():
    """Its forecast is too low, and the last doubling gained more than what matters."""
    (train, known), (test, asked) = many(200, 200, seed=1), many(400, 200, seed=2)
    world = given(test, ["?"] * 400, task=ANSWERS, metric="exact_match", train=train, known=Vectors(range(200), known, asked))
    found = learning_curve(world)
    assert found["points"][-1]["estimate"] - found["points"][-2]["estimate"] > 0.15
    assert found["answer"] != "no"


def test_a_curve_that_has_levelled_off_says_no():
    (train, known), (test, asked) = many(400, 12, seed=1), many(300, 12, seed=2)
    test = [row if place % 10 else Example(row.id, row.prompt, "said nowhere") for place, row in enumerate(test)]
    world = given(test, ["?"] * 300, task=ANSWERS, metric="exact_match", train=train, known=Vectors(range(400), known, asked))
    found = learning_curve(world)
    assert found["answer"] == "no"
    assert found["doubling"]["estimate"] < 0.02


def test_the_classifier_learns_on_nested_parts_and_the_last_point_is_that_of_all_rows():
    train, test = fruit(60, start=1000), fruit(60)
    found = learning_curve(given(test, ["?"] * 60, train=train, known=vectors(train, test)))
    assert found["of"] == "the plain classifier"
    assert found["points"][-1]["estimate"] == 1.0
    assert all(point["n"] == 60 and point["low"] <= point["estimate"] <= point["high"] for point in found["points"])
    assert no_nan(found)


def test_what_the_classifier_answered_already_is_the_point_of_all_rows():
    train, test = fruit(60, start=1000), fruit(60)
    world = given(test, ["?"] * 60, train=train, known=vectors(train, test))
    world = replace(world, answers={**world.answers, "classifier": ["plum"] * 60})
    assert learning_curve(world)["points"][-1]["estimate"] == pytest.approx(1 / 3)


def test_where_less_is_better_the_curve_falls_and_the_gain_is_positive():
    (train, known), (test, asked) = many(200, 150, seed=3), many(200, 150, seed=4)
    world = given(
        test, ["?"] * 200, task=ANSWERS, metric="edit_rate", train=train, known=Vectors(range(200), known, asked),
        more={"success": [{"metric": "edit_rate", "at_most": 0.3}]},
    )  # fmt: skip
    found = learning_curve(world)
    assert found["points"][0]["estimate"] > found["points"][-1]["estimate"]
    assert found["doubling"]["estimate"] >= 0
    assert all(one["low"] <= one["high"] for one in found["curve"])


def test_scores_that_are_the_same_at_every_size_cannot_tell():
    train, test = fruit(100, start=1000), [Example(f"t{place}", "p", "plum") for place in range(40)]
    same = [Example(row.id, row.prompt, "apple") for row in train]
    found = learning_curve(given(test, ["?"] * 40, train=same, known=vectors(same, test)))
    assert found["answer"] == "cannot tell"
    assert "the same with every number of training rows" in found["why"]
    assert no_nan(found)


@pytest.mark.parametrize("rows", [0, 1, 8, 15])
def test_too_few_training_rows_are_said(rows: int):
    with pytest.raises(NotAvailable, match=f"{rows} training rows are too few"):
        sizes_of(rows)


def test_without_an_encoder_there_is_no_cheap_learner():
    with pytest.raises(NotAvailable, match="no sentence encoder"):
        learning_curve(given(fruit(60), ["?"] * 60, train=fruit(60), task=classification(["apple", "pear", "plum"])))
