"""Labels that contradict like rows are found first."""

import random

from fine_tune_pipeline.guide.dataset.suspects import FEWEST_ROWS, SHARE, suspects
from fine_tune_pipeline_tests.guide.dataset.make import FORM, FRUIT, OPEN, example

WORDS = {"apple": "red crisp orchard cider core round shiny", "pear": "green soft bottle grainy conference long buttery"}


def rows(count: int, wrong: set[int], answer=lambda label: label):
    draw = random.Random(0)
    result = []
    for number in range(count):
        label = "apple" if number % 2 else "pear"
        given = {"apple": "pear", "pear": "apple"}[label] if number in wrong else label
        prompt = " ".join(draw.sample(WORDS[label].split(), 4))
        result.append(example(f"row{number}", f"{prompt} {number}", answer(given)))
    return result


def test_planted_wrong_labels_are_found_with_the_label_that_like_rows_have():
    wrong = {3, 10, 41, 88}
    found = suspects(rows(100, wrong), task=FRUIT)
    assert {f"row{number}" for number in wrong} <= set(found)
    assert found["row3"] == "label_disagrees: label is pear, like rows say apple"
    assert len(found) <= SHARE * 100


def test_right_labels_raise_no_doubt():
    assert suspects(rows(100, set()), task=FRUIT) == {}


def test_every_field_with_a_closed_list_is_looked_at():
    def form(label):
        return '{"city": "Rome", "name": "x"}' if label == "apple" else '{"city": "Paris", "name": "y"}'

    assert "city is Paris, like rows say Rome" in suspects(rows(100, {3}, form), task=FORM)["row3"]


def test_open_tasks_and_few_rows_raise_no_doubt():
    assert suspects(rows(100, {3}), task=OPEN) == {}
    assert suspects(rows(FEWEST_ROWS - 1, {3}), task=FRUIT) == {}


def test_a_class_with_a_single_row_casts_doubt_on_no_other_row():
    alone = [example(f"row{number}", f"words {number}", "apple") for number in range(60)]
    assert suspects([*alone, example("other", "quite different", "pear")], task=FRUIT).keys() <= {"other"}
