"""Labels that contradict like rows are found first."""

import random
from dataclasses import replace

import numpy as np

from fine_tune_pipeline.guide.dataset.cleaning import suspects as module
from fine_tune_pipeline.guide.dataset.cleaning.suspects import FEWEST_ROWS, LEAST_AGREEMENT, agreements, suspects
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
    found = suspects(rows(100, wrong), task=FRUIT).said
    assert {f"row{number}" for number in wrong} <= set(found)
    assert found["row3"] == "label_disagrees: label is pear, like rows say apple"
    assert len(found) <= 2 * len(wrong)


def test_right_labels_raise_no_doubt():
    assert suspects(rows(100, set()), task=FRUIT).said == {}


def test_every_field_with_a_closed_list_is_looked_at():
    def form(label):
        return '{"city": "Rome", "name": "x"}' if label == "apple" else '{"city": "Paris", "name": "y"}'

    assert "city is Paris, like rows say Rome" in suspects(rows(100, {3}, form), task=FORM).said["row3"]


def test_open_tasks_and_few_rows_raise_no_doubt():
    assert (suspects(rows(100, {3}), task=OPEN).said, suspects(rows(100, {3}), task=OPEN).judged) == ({}, 0)
    assert suspects(rows(FEWEST_ROWS - 1, {3}), task=FRUIT).said == {}


def test_a_class_with_a_single_row_casts_doubt_on_no_other_row():
    alone = [example(f"row{number}", f"words {number}", "apple") for number in range(60)]
    assert suspects([*alone, example("other", "quite different", "pear")], task=FRUIT).said.keys() <= {"other"}


def test_a_row_is_not_judged_by_its_own_cluster():
    """Three like rows with the same wrong label would vouch for each other."""
    wrong = {3, 10, 41}
    prompt = "red crisp orchard cider"
    planted = [
        example(row.id, prompt if int(row.id[3:]) in wrong else row.prompt, "pear" if int(row.id[3:]) in wrong else row.completion,
                metadata={"cluster": "row3" if int(row.id[3:]) in wrong else row.id})
        for row in rows(100, set())
    ]  # fmt: skip
    assert {"row3", "row10", "row41"} <= set(suspects(planted, task=FRUIT).said)


def test_meaning_finds_what_words_cannot():
    """Every word stands in one row only: the words say nothing, the embedding all."""
    planted = [example(f"row{number}", f"word{number}", ("apple", "pear")[number % 2 != (number in {5, 30})]) for number in range(80)]

    def embed(texts):
        return np.array([[1.0, 0.0] if int(text[4:]) % 2 else [0.0, 1.0] for text in texts], dtype=np.float32)

    found = suspects(planted, task=FRUIT, embed=embed)
    assert set(found.said) == {"row5", "row30"}
    assert (found.judged, found.by) == (80, "words and meaning (MiniLM)")


def test_of_too_many_rows_those_with_the_smallest_hashes_are_judged(monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 60)
    asked = []

    def embed(texts):
        asked.append(set(texts))
        return np.ones((len(texts), 2), dtype=np.float32)

    assert suspects(rows(100, {3}), task=FRUIT, embed=embed).judged == 60
    suspects(rows(120, {3}), task=FRUIT, embed=embed)
    assert len(asked[0]) == len(asked[1]) == 60
    # Rows that were added push out a few, not all.
    assert len(asked[0] & asked[1]) > 40


def test_labels_that_like_rows_do_not_show_are_not_doubted_and_their_field_is_named():
    planted = rows(100, set())
    shuffled = [row.completion for row in planted]
    random.Random(0).shuffle(shuffled)
    found = suspects([replace(row, completion=label) for row, label in zip(planted, shuffled, strict=True)], task=FRUIT)
    assert found.said == {}
    assert found.unseen["label"] < LEAST_AGREEMENT
    assert agreements(found.unseen) == f"label {found.unseen['label']:.2f}"
    assert suspects(planted, task=FRUIT).unseen == {}
