"""Scores of findings against cases that were worked out by hand."""

import pytest

from fine_tune_pipeline.programs.pii.detection_scores import Range, Score, Token, by_characters, by_spans


def tokens(text):
    found, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        found.append(Token(word, at))
        at += len(word)
    return found


def ranges(text, *parts):
    return [Range(text.index(part), text.index(part) + len(part)) for part in parts]


def test_characters_count_once_and_halves_count_half():
    assert by_characters([Range(0, 4), Range(2, 6)], [Range(3, 9)]) == Score(right=3, found=6, there=6)


def test_f2_weighs_recall_four_times():
    assert Score(right=2, found=4, there=2).f2 == pytest.approx(5 * 0.5 * 1 / (4 * 0.5 + 1))
    assert Score(right=0, found=0, there=3).f2 == 0


TEXT = "ask Jane Maria Doe or Bob today"


@pytest.mark.parametrize(
    ("found", "there", "score"),
    [
        (["Jane Maria Doe", "Bob"], ["Jane Maria Doe", "Bob"], Score(1, 1, 1)),  # `or` is skipped: one span
        (["Jane Maria Doe"], ["Jane Maria Doe"], Score(1, 1, 1)),
        (["Jane Maria"], ["Jane Maria Doe"], Score(0, 1, 1)),  # 10 of 14 characters agree
        (["Jane", "Maria Doe"], ["Jane Maria Doe"], Score(1, 1, 1)),
        (["Jane", "Doe"], ["Jane Maria Doe"], Score(0, 1, 1)),  # two spans over one truth count as one
        (["today"], ["Jane Maria Doe"], Score(0, 1, 1)),
        ([], ["Jane Maria Doe"], Score(0, 0, 1)),
        (["or"], [], Score(0, 0, 0)),  # nothing but a skipped word
    ],
)
def test_spans_agree_in_nine_of_ten_characters(found, there, score):
    assert by_spans(ranges(TEXT, *found), ranges(TEXT, *there), tokens(TEXT)) == score


def test_a_span_over_two_truths_is_counted_for_each():
    text = "Ann wrote Bob"
    assert by_spans([Range(0, 13)], ranges(text, "Ann", "Bob"), tokens(text)) == Score(right=0, found=2, there=2)


def test_a_lower_threshold_takes_what_agrees_less():
    assert by_spans(ranges(TEXT, "Jane Maria"), ranges(TEXT, "Jane Maria Doe"), tokens(TEXT), iou=0.7) == Score(1, 1, 1)
