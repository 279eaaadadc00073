import random

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from fine_tune_pipeline.guide.objective.figures import figure
from fine_tune_pipeline.guide.objective.measures.item import Item
from fine_tune_pipeline.guide.objective.metrics import metric_named
from fine_tune_pipeline.guide.objective.task import classification

NAMES = ["a", "b", "c", "d"]
TASK = classification(NAMES)


def items(draw: random.Random, count: int) -> list[Item]:
    """Random answers; some are no label, and some classes may be missing."""
    references = draw.sample(NAMES, draw.randint(1, 4))
    return [
        Item(
            draw.choice([*NAMES, "nonsense"]),
            draw.choice(references),
            TASK,
            measured={"confidence": draw.choice([draw.random(), 0.0, 1.0])},
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_macro_f1_and_recall_equal_scikit_learns(seed: int):
    draw = random.Random(seed)
    given = items(draw, draw.randint(1, 60))
    wanted, answered = [item.reference for item in given], [item.prediction for item in given]
    there = sorted(set(wanted))
    assert figure(metric_named("macro_f1", TASK), given) == pytest.approx(
        f1_score(wanted, answered, labels=there, average="macro", zero_division=0)
    )
    recalls = recall_score(wanted, answered, labels=there, average=None, zero_division=0)
    assert [figure(metric_named(f"recall.{name}", TASK), given) for name in there] == pytest.approx(list(recalls))


def slow_calibration_error(given: list[Item]) -> float:
    """Row by row and bin by bin, as the paper says it."""
    total = 0.0
    for place in range(15):
        inside = [
            item
            for item in given
            if place / 15 < item.measured["confidence"] <= (place + 1) / 15 or (place == 0 and item.measured["confidence"] == 0)
        ]
        if inside:
            accuracy = sum(item.prediction == item.reference for item in inside) / len(inside)
            confidence = sum(item.measured["confidence"] for item in inside) / len(inside)
            total += len(inside) / len(given) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("seed", range(40))
def test_calibration_error_equals_the_sum_over_bins(seed: int):
    draw = random.Random(seed)
    given = items(draw, draw.randint(1, 80))
    assert figure(metric_named("ece", TASK), given) == pytest.approx(slow_calibration_error(given), abs=1e-12)


def test_what_gives_no_probability_answers_as_if_it_were_sure():
    assert figure(metric_named("ece", TASK), [Item("a", "a", TASK), Item("a", "b", TASK)]) == 0.5


def test_a_label_that_no_row_has_gives_no_recall():
    assert figure(metric_named("recall.d", TASK), [Item("a", "a", TASK)]) is None


def test_spelling_of_the_label_in_a_metrics_name_does_not_matter():
    assert metric_named("recall.A", TASK).name == "recall.a"


def test_macro_f1_of_resampled_rows_is_that_of_the_rows_they_stand_for():
    given = items(random.Random(3), 30)
    metric = metric_named("macro_f1", TASK)
    assert metric.corpus is not None
    places = np.random.default_rng(0).integers(0, 30, size=30)
    rows = np.array([metric.corpus.row(item) for item in given])
    assert metric.corpus.value(rows[places]) == pytest.approx(figure(metric, [given[place] for place in places]))
