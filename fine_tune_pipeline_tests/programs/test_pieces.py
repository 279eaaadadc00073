"""Pieces of a growing answer: together they are the answer, and none holds half a character or half a stop string."""

import random

import pytest

from fine_tune_pipeline.programs.pieces import Pieces, before
from fine_tune_pipeline.programs.prompts import answer_text
from fine_tune_pipeline.programs.requests import PromptFormat

PLAIN, CHAT = PromptFormat(), PromptFormat(style="chat")


def told(prefixes: list[str], *, format: PromptFormat = PLAIN, stop: tuple[str, ...] = ()) -> list[str]:
    """The pieces of an answer whose text was these prefixes, one after the other."""
    pieces = Pieces(format=format, stop=stop)
    found = [pieces.more(text) for text in prefixes[:-1]]
    return [*found, pieces.rest(answer_text(prefixes[-1], format=format, stop=stop))]


def test_a_character_is_told_when_it_is_whole():
    assert told([" caf", " caf\ufffd", " caf\ufffd\ufffd", " café", " café!"]) == ["caf", "", "", "é", "!"]


def test_white_space_is_told_when_something_follows_it():
    assert told([" a", " a ", " a \n", " a \nb", " a \nb "]) == ["a", "", "", " \nb", ""]


@pytest.mark.parametrize("stop", ["END", "xEND", "END\n"])
def test_what_may_become_a_stop_string_waits(stop: str):
    text = f"one {stop}"
    grown = [text[:size] for size in range(1, len(text) + 1)]
    assert "".join(told(grown, stop=(stop,))) == "one"
    almost = [*grown[:-1], grown[-2] + "!"]
    assert "".join(told(almost, stop=(stop,))) == almost[-1]


def test_the_next_example_of_a_plain_prompt_is_never_told():
    assert told([" fees", " fees\n", " fees\nIn", " fees\nInput:"]) == ["fees", "", "", ""]
    assert told([" fees\nIn", " fees\nInput"], format=CHAT) == ["fees\nIn", "put"]


@pytest.mark.parametrize(("text", "stop", "kept"), [("abab", "abc", "ab"), ("xaab", "ab", "xa"), ("aaa", "aaab", ""), ("abc", "x", "abc")])
def test_the_longest_begin_of_the_stop_string_is_held_back(text: str, stop: str, kept: str):
    assert before(text, stop) == kept


def test_pieces_of_any_text_put_together_are_the_whole_answer():
    chance = random.Random(0)
    for _ in range(500):
        text = "".join(chance.choices(["a", "b", " ", "\n", "é", "\nInput:", "\nInput", "END"], k=12))
        stop = tuple(chance.sample(["ab", "END", "\n\n", "b "], k=chance.randint(0, 2)))
        grown = [text[:size] for size in range(1, len(text) + 1)]
        assert "".join(told(grown, stop=stop)) == answer_text(text, format=PLAIN, stop=stop), (text, stop)
