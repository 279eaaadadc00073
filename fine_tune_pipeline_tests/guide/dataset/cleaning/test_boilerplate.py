"""What stands around many messages is cut; what the messages say stays."""

import pytest

from fine_tune_pipeline.guide.dataset.cleaning import boilerplate
from fine_tune_pipeline.guide.dataset.cleaning.boilerplate import LEAST_ROWS, common_lines, without_lines
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
    examples = rows("Dear all,\n" + SIGNED)
    lines = common_lines(examples, task=FRUIT)
    assert lines == {"dear all": 30, "kind regards": 30, "the orchard team": 30}
    cut = [without_lines(row, lines) for row in examples]
    assert cut[0].prompt == "message number 0 says 0"
    assert sum(new is not old for new, old in zip(cut, examples, strict=True)) == 30
    assert cut[99] is examples[99]


def test_of_very_many_rows_a_part_is_looked_at_and_the_counts_are_those_of_all(monkeypatch):
    monkeypatch.setattr(boilerplate, "COUNTED_ROWS", 30)
    assert common_lines(rows(SIGNED), task=FRUIT) == {"kind regards": 30, "the orchard team": 30}
    assert common_lines(rows(SIGNED, signed=LEAST_ROWS - 1), task=FRUIT) == {}


@pytest.mark.parametrize("signed", [LEAST_ROWS - 1, 51])
def test_lines_in_few_rows_and_lines_in_most_rows_stay(signed):
    assert common_lines(rows(SIGNED, signed=signed), task=FRUIT) == {}


def test_a_line_in_the_middle_stays():
    [row] = rows("first {text}\nKind regards,\nlast {text}", total=1)
    assert without_lines(row, {"kind regards"}) is row


def test_a_line_that_goes_with_one_answer_tells_something():
    examples = rows("{text}\nplease refund me", completion=lambda number: "pear" if number < 30 or number % 2 else "apple")
    assert common_lines(examples, task=FRUIT) == {}
    assert common_lines(examples, task=OPEN) == {"please refund me": 30}


def test_a_line_that_announces_what_follows_stays():
    assert common_lines(rows("Question:\n{text}"), task=FRUIT) == {}


def test_a_prompt_that_is_nothing_else_stays_whole_and_answers_are_not_touched():
    lines = common_lines(rows(SIGNED), task=OPEN)
    bare = example("bare", "Kind regards,\nThe Orchard Team", "apple\nKind regards,")
    assert without_lines(bare, lines) is bare
    signed = example("signed", f"a question\n{bare.prompt}", bare.completion)
    assert without_lines(signed, lines) == example("signed", "a question", bare.completion)


def test_the_repair_is_counted_and_can_be_skipped():
    spec = CleanSpec(near_duplicate_jaccard=1.0)
    result = clean(rows(SIGNED), spec=spec, task=FRUIT)
    assert result.fixed == {"boilerplate": 30}
    assert clean(rows(SIGNED), spec=spec.model_copy(update={"skip": ["boilerplate"]}), task=FRUIT).fixed == {}
