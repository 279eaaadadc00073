"""Near duplicates against a brute force over sets of strings, written apart from the code under test."""

import itertools
import random
import string

import numpy as np
import pytest

from fine_tune_pipeline.guide.dataset.duplicates import Pair, groups, jaccard, near_pairs, plain_text, rows_per_band, shingles


def shingle_set(text: str) -> set[str]:
    return {text[start : start + 5] for start in range(max(1, len(text) - 4))}


def similarity(left: set[str], right: set[str]) -> float:
    return len(left & right) / len(left | right)


def corpus(count: int, seed: int) -> list[str]:
    """Texts of words, and of each some edited copies of growing distance, so that similarities of all sizes occur."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(400)]
    texts = []
    while len(texts) < count:
        text = draw.choices(words, k=draw.randint(4, 25))
        texts.append(" ".join(text))
        for edits in (1, 2, 4):
            copy = list(text)
            for _ in range(edits):
                copy[draw.randrange(len(copy))] = draw.choice(words)
            texts.append(" ".join(copy))
    return texts[:count]


@pytest.mark.parametrize(
    ("left", "right"), [("abcdefgh", "abcdefxy"), ("abc", "abc"), ("abc", "abd"), ("abcdefgh", "zzzzzzzz"), ("ab ab ab ab", "ab ab")]
)
def test_jaccard_is_that_of_the_sets_of_shingles(left, right):
    assert jaccard(*shingles([left, right])) == pytest.approx(similarity(shingle_set(left), shingle_set(right)))


def test_shingles_of_many_texts_are_those_of_each_alone():
    texts = ["a", "", "hello there", "ünïcödé 😀 text", "hello there"]
    together = shingles(texts)
    for text, found in zip(texts, together, strict=True):
        assert np.array_equal(found, shingles([text])[0])


@pytest.mark.parametrize(("threshold", "fewest"), [(0.4, 200), (0.5, 150), (0.7, 60), (0.85, 10)])
def test_pairs_are_those_of_brute_force_and_none_is_wrong(threshold, fewest):
    texts = corpus(400, seed=7)
    sets = [shingle_set(text) for text in texts]
    wanted = {
        (first, second): alike
        for first, second in itertools.combinations(range(len(texts)), 2)
        if (alike := similarity(sets[first], sets[second])) >= threshold
    }
    found = {(pair.first, pair.second): pair.jaccard for pair in near_pairs(texts, threshold)}
    assert len(wanted) >= fewest
    assert set(found) <= set(wanted)
    assert len(found) >= 0.99 * len(wanted)
    assert all(alike == pytest.approx(wanted[places]) for places, alike in found.items())


def test_pairs_do_not_depend_on_the_run_and_come_in_order():
    texts = corpus(200, seed=1)
    once = near_pairs(texts, 0.6)
    assert once == near_pairs(texts, 0.6)
    assert [pair[:2] for pair in once] == sorted(pair[:2] for pair in once)


@pytest.mark.parametrize("texts", [[], ["only one"]])
def test_fewer_than_two_texts_have_no_pairs(texts):
    assert near_pairs(texts, 0.5) == []


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.8, 0.95])
def test_bands_find_pairs_at_the_threshold(threshold):
    rows = rows_per_band(threshold)
    assert rows == 1 or 1 - (1 - threshold**rows) ** (128 // rows) >= 0.99


def test_research_setting_is_used_at_its_threshold():
    assert rows_per_band(0.7) == 4  # 128 permutations in 32 bands


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  Hello,   WORLD!! ", "hello world"),
        ("it's - fine…", "it s fine"),
        ("£12.40, not 14.20", "£12.40 not 14.20"),
        ("5 - 3", "5 - 3"),
        ("5+3", "5+3"),
        ("STRASSE Straße", "strasse strasse"),
        ("?!", "?!"),
        ("नमस्ते!", "नमस्ते"),
    ],
)
def test_plain_text_drops_case_punctuation_and_gaps_but_nothing_between_digits(text, plain):
    assert plain_text(text) == plain


def test_groups_join_what_is_connected_through_others():
    assert groups(6, [Pair(3, 4, 1), Pair(1, 3, 1), Pair(0, 5, 1)]) == [0, 1, 2, 1, 1, 0]
