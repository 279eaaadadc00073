"""Near duplicates against a brute force over sets of strings, written apart from the code under test."""

import csv
import itertools
import os
import random
import string
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from fine_tune_pipeline.guide.dataset.likeness.duplicates import (
    LEAK_JACCARD,
    LEAK_MISSED,
    groups,
    jaccard,
    near_pairs,
    plain_text,
    shingles,
)
from fine_tune_pipeline.guide.dataset.likeness.minhash import fewest_agreements, rows_per_band

BANKING = Path(os.environ.get("FINE_TUNE_PIPELINE_TEST_DATA", "shared/data")) / "banking77"


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


def brute_force(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    """Pairs of plain texts and their similarity: shared shingles are counted for every two texts that share one."""
    sets = [shingle_set(text) for text in texts]
    having: dict[str, list[int]] = defaultdict(list)
    found = {}
    for second, mine in enumerate(sets):
        shared = Counter(first for shingle in mine for first in having[shingle])
        for first, count in shared.items():
            if (alike := count / (len(mine) + len(sets[first]) - count)) >= threshold:
                found[first, second] = alike
        for shingle in mine:
            having[shingle].append(second)
    return found


@pytest.mark.parametrize(
    ("left", "right"), [("abcdefgh", "abcdefxy"), ("abc", "abc"), ("abc", "abd"), ("abcdefgh", "zzzzzzzz"), ("ab ab ab ab", "ab ab")]
)
def test_jaccard_is_that_of_the_sets_of_shingles(left, right):
    assert jaccard(shingles(left), shingles(right)) == pytest.approx(similarity(shingle_set(left), shingle_set(right)))


def test_a_text_shorter_than_a_shingle_is_one():
    assert shingles("abc") == {"abc"}
    assert shingles("abcde") == {"abcde"}
    assert shingles("") == {""}


@pytest.mark.parametrize(("threshold", "fewest"), [(0.4, 200), (0.5, 150), (0.7, 60), (0.85, 10)])
def test_pairs_are_those_of_brute_force_and_none_is_wrong(threshold, fewest):
    texts = corpus(400, seed=7)
    wanted = brute_force(texts, threshold)
    found = {(pair.first, pair.second): pair.jaccard for pair in near_pairs(texts, threshold)}
    assert len(wanted) >= fewest
    assert set(found) <= set(wanted)
    assert len(found) >= 0.99 * len(wanted)
    assert all(alike == pytest.approx(wanted[places]) for places, alike in found.items())


@pytest.mark.parametrize("seed", range(5))
def test_the_split_misses_no_pair_of_brute_force(seed):
    texts = corpus(600, seed=seed)
    assert {pair[:2] for pair in near_pairs(texts, LEAK_JACCARD, missed=LEAK_MISSED)} == set(brute_force(texts, LEAK_JACCARD))


@pytest.mark.parametrize("seed", range(3))
def test_shortest_texts_and_any_signs_are_compared_too(seed):
    draw = random.Random(seed)
    texts = ["".join(draw.choices("abé😀नम 1", k=draw.randrange(9))) for _ in range(300)]
    plain = [plain_text(text) for text in texts]
    sets = [shingle_set(text) for text in plain]
    wanted = {(i, j) for i, j in itertools.combinations(range(300), 2) if similarity(sets[i], sets[j]) >= 0.7}
    found = {pair[:2] for pair in near_pairs(texts, 0.7)}
    assert found <= wanted
    assert len(found) >= 0.99 * len(wanted) > 20


def test_of_a_crowd_each_is_paired_with_the_first_and_the_pairs_stay_few():
    texts = [f"please tell me where the parcel with the long number {number} is at this moment" for number in range(1000, 1600)]
    pairs = near_pairs(texts, 0.7)
    assert {pair.second for pair in pairs if pair.first == 0} == set(range(1, 600))
    assert len(pairs) < 600 * 599 / 2 / 2
    assert len(set(groups(600, np.stack([pairs.first, pairs.second], axis=1)).tolist())) == 1


@pytest.mark.skipif(not BANKING.is_dir(), reason="banking77 is not here")
def test_on_real_questions_recall_is_above_99_percent_and_no_pair_is_wrong():
    with (BANKING / "test.csv").open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    texts += [f"{text} please" for text in texts[::3]] + [text.replace("my", "our") for text in texts[::4]]
    wanted = brute_force([plain_text(text) for text in texts], 0.7)
    found = {pair[:2] for pair in near_pairs(texts, 0.7)}
    assert found <= set(wanted)
    assert len(found) >= 0.99 * len(wanted) > 1000


def test_pairs_do_not_depend_on_the_run_and_come_in_order():
    texts = corpus(200, seed=1)
    once = list(near_pairs(texts, 0.6))
    assert once == list(near_pairs(texts, 0.6))
    assert [pair[:2] for pair in once] == sorted(pair[:2] for pair in once)


@pytest.mark.parametrize("texts", [[], ["only one"]])
def test_fewer_than_two_texts_have_no_pairs(texts):
    assert list(near_pairs(texts, 0.5)) == []


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.8, 0.95])
def test_bands_find_pairs_at_the_threshold(threshold):
    rows = rows_per_band(threshold)
    assert rows == 1 or 1 - (1 - threshold**rows) ** (128 // rows) >= 0.99


def test_research_setting_is_used_at_its_threshold():
    assert rows_per_band(0.7) == 4  # 128 permutations in 32 bands


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9])
def test_signatures_pass_over_one_pair_in_ten_million(threshold):
    fewest = fewest_agreements(threshold)
    assert binom.cdf(fewest - 1, 128, threshold) <= 1e-7 < binom.cdf(fewest, 128, threshold)


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
    assert groups(6, np.array([(3, 4), (1, 3), (0, 5)])).tolist() == [0, 1, 2, 1, 1, 0]
    assert groups(3, np.empty((0, 2), dtype=np.int64)).tolist() == [0, 1, 2]
