"""The look for leaks finds every pair that brute force finds."""

import random

import pytest

from fine_tune_pipeline.guide.dataset.likeness.leakage import leaks, shared
from fine_tune_pipeline.guide.dataset.likeness.own_words import Overlap
from fine_tune_pipeline_tests.guide.dataset.brute_force import sharing
from fine_tune_pipeline_tests.guide.dataset.likeness.test_duplicates import corpus, shingle_set, similarity


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9, 1.0])
def test_leaks_are_those_of_brute_force(threshold):
    texts = corpus(240, seed=3)
    train, other = texts[::2], texts[1::2]
    wanted = {
        (first, second): alike
        for first, left in enumerate(map(shingle_set, train))
        for second, right in enumerate(map(shingle_set, other))
        if (alike := similarity(left, right)) >= threshold
    }
    found = leaks(train, other, threshold=threshold)
    assert len(wanted) > (20 if threshold < 0.9 else 0 if threshold < 1 else -1)
    assert {(pair.first, pair.second): pytest.approx(pair.jaccard) for pair in found} == wanted
    assert [pair.jaccard for pair in found] == sorted((pair.jaccard for pair in found), reverse=True)


def test_the_same_text_in_other_case_leaks_fully():
    assert leaks(["Card stolen!"], ["card  stolen"])[0].jaccard == 1.0


@pytest.mark.parametrize(("train", "other"), [([], ["x"]), (["x"], [])])
def test_an_empty_side_cannot_leak(train, other):
    assert leaks(train, other) == []


@pytest.mark.parametrize("seed", range(6))
def test_shared_words_are_those_of_brute_force(seed):
    draw = random.Random(seed)
    rows = [[" ".join(draw.choices("abcdef", weights=[9, 5, 2, 1, 1, 1], k=draw.randrange(14))) for _ in range(2)] for _ in range(60)]
    train, other = rows[:40], rows[40:]
    wanted = sharing(train, other, counted=rows, words=5, most=10)
    found = {row.first for row in shared(train, other, counted=rows, overlap=Overlap(5))}
    assert found == wanted
    assert 0 < len(wanted) < 40
