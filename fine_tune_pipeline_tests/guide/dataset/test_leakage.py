"""The look for leaks finds every pair that brute force finds."""

import pytest

from fine_tune_pipeline.guide.dataset.leakage import leaks
from fine_tune_pipeline_tests.guide.dataset.make import example
from fine_tune_pipeline_tests.guide.dataset.test_duplicates import corpus, shingle_set, similarity


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_leaks_are_those_of_brute_force(threshold):
    texts = corpus(240, seed=3)
    train, other = texts[::2], texts[1::2]
    wanted = {
        (first, second): alike
        for first, left in enumerate(map(shingle_set, train))
        for second, right in enumerate(map(shingle_set, other))
        if (alike := similarity(left, right)) >= threshold
    }
    rows = [[example(str(n), text) for n, text in enumerate(side)] for side in (train, other)]
    found = leaks(*rows, threshold=threshold)
    assert len(wanted) > 20
    assert {(pair.first, pair.second): pytest.approx(pair.jaccard) for pair in found} == wanted
    assert [pair.jaccard for pair in found] == sorted((pair.jaccard for pair in found), reverse=True)


def test_the_same_text_in_other_case_leaks_fully():
    assert leaks([example("a", "Card stolen!")], [example("b", "card  stolen")])[0].jaccard == 1.0


@pytest.mark.parametrize(("train", "other"), [([], [example("a", "x")]), ([example("a", "x")], [])])
def test_an_empty_side_cannot_leak(train, other):
    assert leaks(train, other) == []
