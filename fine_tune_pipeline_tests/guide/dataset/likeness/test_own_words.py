"""Runs of words that rows share, against sets of tuples; what a template or many rows say does not count."""

import random

import numpy as np
import pytest

from fine_tune_pipeline.guide.dataset.likeness.duplicates import groups
from fine_tune_pipeline.guide.dataset.likeness.own_words import Overlap, links, literals, met, most_rows, rows_with, runs_of, shared_words
from fine_tune_pipeline_tests.guide.dataset.brute_force import own, sharing, tuples

EIGHT = Overlap(8)
SAID = "i was charged twice for the same coffee"


def leaking(rows, apart, overlap=EIGHT):
    return met(runs_of([[row] for row in rows], overlap), apart=np.array(apart, dtype=bool))


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_meet_those_apart_are_those_of_brute_force(seed):
    draw = random.Random(seed)
    rows = [[" ".join(draw.choices("abcdef", weights=[9, 5, 2, 1, 1, 1], k=draw.randrange(14))) for _ in range(2)] for _ in range(60)]
    apart = [draw.random() < 0.3 for _ in rows]
    train = [row for row, other in zip(rows, apart, strict=True) if not other]
    other = [row for row, other in zip(rows, apart, strict=True) if other]
    places = [place for place, kept in enumerate(apart) if not kept]
    found = met(runs_of(rows, Overlap(5)), apart=np.array(apart))
    assert set(found) == {places[place] for place in sharing(train, other, counted=rows, words=5, most=10)}
    assert found
    assert all(apart[other] and not apart[row] for row, other in found.items())


@pytest.mark.parametrize("seed", range(6))
def test_links_join_rows_that_share_a_run_which_is_own_in_one_of_them(seed):
    draw = random.Random(seed)
    rows = [" ".join(draw.choices("abcdefgh", weights=[9, 5, 2, 2, 1, 1, 1, 1], k=draw.randrange(12))) for _ in range(50)]
    mine = [own([row], [[row] for row in rows], 5, 10) for row in rows]
    runs = [set(tuples(row, 5)) for row in rows]
    wanted = [(a, b) for a in range(50) for b in range(a) if runs[a] & runs[b] & (mine[a] | mine[b])]
    # A run is own in some third row and only stands in these two: then they are together through it.
    anywhere = set().union(*mine)
    wanted += [(a, b) for a in range(50) for b in range(a) if runs[a] & runs[b] & anywhere]
    joined = groups(50, links(runs_of([[row] for row in rows], Overlap(5))))
    assert joined.tolist() == groups(50, np.array(wanted)).tolist()
    assert wanted


def test_eight_words_in_a_row_meet_and_seven_do_not():
    rows = [f"hello {SAID} today", f"Well: {SAID.upper()}!", f"hm {SAID.removesuffix(' coffee')} tea"]
    assert leaking(rows, [False, True, False]) == {0: 1}


def test_rows_of_those_apart_do_not_meet_each_other():
    assert leaking([SAID, SAID], [True, True]) == {}


def test_a_short_row_meets_none():
    assert leaking(["my card", "my card"], [False, True]) == {}
    assert leaking([], []) == {}


def test_what_stands_in_many_rows_does_not_count_nor_does_what_overlaps_it():
    footer = "this mail was sent from my phone please excuse typing errors"
    rows = [f"question number {n} about topic {n * 7} {footer}" for n in range(30)]
    assert leaking(rows, [n < 5 for n in range(30)]) == {}
    assert leaking([*rows, SAID, SAID], [n < 5 for n in range(30)] + [True, False]) == {31: 30}


def test_the_last_words_of_boilerplate_and_the_first_of_a_user_make_no_run_together():
    head = "please answer the following question of a customer of ours"
    rows = [f"{head} w{n} x{n} y{n}" for n in range(30)] + [f"{head} red green {n}" for n in range(2)]
    assert leaking(rows, [n % 2 == 0 for n in range(32)]) == {}


def test_what_the_template_says_is_not_the_users_own_however_few_rows_there_are():
    template = "You are the assistant of a bank. Answer the question of the customer: {{ text }}"
    rows = ["You are the assistant of a bank. Answer the question of the customer: " + text for text in ("lost my card", "pin is wrong")]
    assert leaking(rows, [True, False]) == {1: 0}
    assert leaking(rows, [True, False], Overlap(8, literals([template]))) == {}
    both = [f"{rows[0]} {SAID}", f"{rows[1]} {SAID}"]
    assert leaking(both, [True, False], Overlap(8, literals([template]))) == {1: 0}


def test_literals_are_found_in_conditions_and_loops_and_short_ones_are_left_in_the_text():
    template = "Subject: {{ a }}{% if b %}Here is what was said before: {{ b }}{% endif %}\n"
    template += "{% for x in y %}And another thing is {{ x }}{% endfor %}"
    assert literals([template, "{{ prompt }}"]) == ("and another thing is", "here is what was said before")


def test_a_run_ends_where_a_text_of_its_row_does():
    parts = runs_of([["one two three four", "five six seven eight"], ["one two three four five six seven eight"]], EIGHT)
    assert parts.owner.tolist() == [1]


def test_rows_with_counts_rows_not_occurrences():
    hashes = np.array([5, 5, 7, 5, 7], dtype=np.uint64)
    assert rows_with(hashes, np.array([0, 0, 0, 1, 0])).tolist() == [2, 2, 1, 2, 1]


@pytest.mark.parametrize(("rows", "most"), [(100, 10), (10_000, 10), (50_000, 50), (1_000_000, 1000)])
def test_boilerplate_is_what_stands_in_more_than_ten_rows_and_one_in_a_thousand(rows, most):
    assert most_rows(rows) == most


def test_the_words_that_are_named_go_on_as_long_as_they_are_shared():
    left, right = f"so {SAID} yesterday at noon and more", f"Indeed {SAID}, yesterday at noon or so"
    assert shared_words([left], [right], EIGHT) == f"{SAID} yesterday at noon"
    assert shared_words([left], ["nothing"], EIGHT) == ""


def test_without_a_number_of_words_nothing_is_shared():
    assert leaking([SAID, SAID], [True, False], Overlap(None)) == {}
