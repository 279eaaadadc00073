"""What stands around many messages is cut; what the messages say stays."""

import pytest

from fine_tune_pipeline.guide.dataset.cleaning import boilerplate
from fine_tune_pipeline.guide.dataset.cleaning.boilerplate import LEAST_ROWS, common_lines, without_boilerplate
from fine_tune_pipeline.guide.dataset.cleaning.clean import clean
from fine_tune_pipeline.spec.dataset import CleanSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, OPEN, example

SIGNED = "{text}\n\nKind regards,\nThe Orchard Team"


def rows(form, *, signed=30, total=100, completion=lambda number: ("apple", "pear")[number % 2]):
    texts = [f"message number {number} says {number * 7}" for number in range(total)]
    return [
        example(str(number), form.format(text=text) if number < signed else text, completion(number)) for number, text in enumerate(texts)
    ]


def test_lines_at_the_ends_of_many_prompts_are_cut_and_counted():
    cut = without_boilerplate(rows("Dear all,\n" + SIGNED), task=FRUIT)
    assert cut.examples[0].prompt == "message number 0 says 0"
    assert cut.lines == {"dear all": 30, "kind regards": 30, "the orchard team": 30}
    assert (len(cut.ids), cut.examples[99].prompt) == (30, "message number 99 says 693")


def test_of_very_many_rows_a_part_is_looked_at_and_the_counts_are_those_of_all(monkeypatch):
    monkeypatch.setattr(boilerplate, "COUNTED_ROWS", 30)
    assert common_lines(rows(SIGNED), task=FRUIT) == {"kind regards": 30, "the orchard team": 30}
    assert common_lines(rows(SIGNED, signed=LEAST_ROWS - 1), task=FRUIT) == {}


@pytest.mark.parametrize("signed", [LEAST_ROWS - 1, 51])
def test_lines_in_few_rows_and_lines_in_most_rows_stay(signed):
    examples = rows(SIGNED, signed=signed)
    assert without_boilerplate(examples, task=FRUIT).examples == examples


def test_a_line_in_the_middle_stays():
    examples = rows("first {text}\nKind regards,\nlast {text}")
    assert without_boilerplate(examples, task=FRUIT).examples == examples


def test_a_line_that_goes_with_one_answer_tells_something():
    examples = rows("{text}\nplease refund me", completion=lambda number: "pear" if number < 30 or number % 2 else "apple")
    assert common_lines(examples, task=FRUIT) == {}
    assert common_lines(examples, task=OPEN) == {"please refund me": 30}


def test_a_line_that_announces_what_follows_stays():
    assert common_lines(rows("Question:\n{text}"), task=FRUIT) == {}


def test_a_prompt_that_is_nothing_else_stays_whole_and_answers_are_not_touched():
    examples = [*rows(SIGNED), example("bare", "Kind regards,\nThe Orchard Team", "apple\nKind regards,")]
    cut = without_boilerplate(examples, task=OPEN)
    assert cut.examples[-1] == examples[-1]
    assert "bare" not in cut.ids


def test_the_repair_is_counted_and_can_be_skipped():
    spec = CleanSpec(near_duplicate_jaccard=1.0)
    result = clean(rows(SIGNED), spec=spec, task=FRUIT)
    assert result.fixed == {"boilerplate": 30}
    assert clean(rows(SIGNED), spec=spec.model_copy(update={"skip": ["boilerplate"]}), task=FRUIT).fixed == {}
