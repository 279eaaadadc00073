"""Filters name every expression that matches, in whatever script."""

import re

import pytest
import regex

from fine_tune_pipeline.programs.pii import pattern_filter
from fine_tune_pipeline.programs.pii.pattern_filter import HyperscanFilter, NeedsFilter
from fine_tune_pipeline.programs.pii.pattern_needs import FOLDED, flat, needs, plain, relaxed
from fine_tune_pipeline_tests.programs.pii.hostile_texts import hostile_texts

FLAGS = regex.DOTALL | regex.MULTILINE | regex.IGNORECASE
EXPRESSIONS = [
    r"\b\d{3}-\d{4}\b", r"[^a-z0-9]{3}", r"(?<![\w:])::(?!\w)", r"\w+@\w+", r"s{2}|k9", r"[\d-]{5}", r"(a|b)\1", r"\S{30,}", r"^\d", r"x$",
    r"(?<!_)\d", r"[^_]_", r"\p{Lu}\d", "é", r"(?:call){e<=1}", r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,6}",
]  # fmt: skip


@pytest.mark.parametrize("kind", [NeedsFilter, HyperscanFilter])
def test_no_expression_that_matches_is_left_out(kind):
    if kind is HyperscanFilter and pattern_filter.hyperscan is None:
        pytest.skip("needs hyperscan")
    may_match = kind([(expression, FLAGS) for expression in EXPRESSIONS])
    for text in hostile_texts(200, seed=1):
        matching = {place for place, expression in enumerate(EXPRESSIONS) if regex.search(expression, text, FLAGS)}
        assert matching <= set(may_match(text)), text


def test_a_filter_leaves_out_what_cannot_match():
    assert NeedsFilter([(r"\d{3}-\d{4}", FLAGS), (r"\w+@\w+", FLAGS)])("no digits, no address") == []


@pytest.mark.parametrize(
    ("expression", "classes", "digits"),
    [
        (r"\d{3}-\d{4}", {"-"}, 7),
        (r"(?:a|b)c?", {"aAbB"}, 0),
        (r"(?:\d{2}|\d{4})[./]", {"./"}, 2),
        (r"\d*x", {"xX"}, 0),
        (r"[\d-]", set(), 0),
        (r"(?=\d)q", {"qQ"}, 0),
        (r"[^a]", set(), 0),
        (r"\p{Lu}\d", set(), 0),
        (r"(?:q){e<=1}", set(), 0),
    ],
)
def test_needs_of_an_expression(expression, classes, digits):
    found = needs(expression)
    assert {frozenset(each) for each in classes} == found.classes
    assert found.digits == digits


BEYOND = "".join(chr(code) for code in range(128, 0x3400))


def test_every_character_that_folds_to_an_ascii_letter_is_known():
    assert set(regex.findall("[a-z]", BEYOND, regex.IGNORECASE)) <= set("".join(FOLDED.values()))


@pytest.mark.parametrize("kind", [r"\w", r"\s"])
def test_stand_ins_are_of_the_kind_of_what_they_stand_for(kind):
    known = regex.sub(rf"\d|[{''.join(FOLDED.values())}]", "", BEYOND)
    written = flat(known)
    assert written is not None
    assert [m.start() for m in re.finditer(kind, written, re.ASCII)] == [m.start() for m in regex.finditer(kind, known)]


def test_a_digit_of_another_script_has_no_stand_in():
    assert flat("\u0663") is None


@pytest.mark.parametrize("expression", [r"(?<!_)\d", r"[^_]", r"é", r"[À-ÿ]", r"(?:q){e<=1}", r"\p{Lu}", r"[[a-z]--[b]]"])
def test_expressions_that_another_engine_would_read_otherwise_are_not_plain(expression):
    assert not plain(expression)


def test_long_repetitions_are_relaxed_but_not_braces_in_a_class():
    assert relaxed(r"[a-z]{1,253}x{2}y{1,3}") == r"[a-z]{1,}x{2}y{1,3}"
    assert relaxed(r"[a{1,25}]") == r"[a{1,25}]"
