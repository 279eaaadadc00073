"""Rows that say the same in other words, with vectors that the tests choose."""

import itertools

import numpy as np
import pytest

from fine_tune_pipeline.guide.dataset.cleaning.clean import clean
from fine_tune_pipeline.guide.dataset.likeness import semantic
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import Answers
from fine_tune_pipeline.guide.dataset.likeness.semantic import semantic_duplicates, semantic_pairs
from fine_tune_pipeline.guide.dataset.sources.collect import FEEDBACK
from fine_tune_pipeline.spec.dataset import CleanSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, OPEN, example, ids

DEGREES = {"where is my card": 0, "my card has not come": 10, "has the card been sent": 18, "I lost my pin": 90}


def by_degrees(texts):
    return np.array([[np.cos(np.radians(DEGREES[text])), np.sin(np.radians(DEGREES[text]))] for text in texts], dtype=np.float32)


def run(*examples, remove=False, task=FRUIT):
    result = semantic_duplicates(examples, embed=by_degrees, cosine=0.97, remove=remove, answers=Answers(task, 0.7))
    assert sorted(ids(result.kept) + ids(result.quarantine)) == sorted(ids(examples))
    return result


A, B, C, D = (example(name, text) for name, text in zip("abcd", DEGREES, strict=True))


@pytest.mark.parametrize("rows", [1, 3, 1024])
def test_pairs_are_those_of_every_two_rows_however_many_are_compared_at_a_time(rows, monkeypatch):
    monkeypatch.setattr(semantic, "_ROWS", rows)
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = {(a, b) for a, b in itertools.combinations(range(40), 2) if float(np.dot(vectors[a], vectors[b])) >= 0.8}
    assert {pair[:2] for pair in semantic_pairs(vectors, 0.8)} == wanted
    assert 10 < len(wanted) < 400


def test_no_rows_have_no_pairs():
    assert list(semantic_pairs(np.empty((0, 2), dtype=np.float32), 0.9)) == []


def test_the_later_one_is_marked_with_the_earlier_one_and_both_share_a_cluster():
    result = run(A, D, B)
    assert [example.metadata.get("marked") for example in result.kept] == [None, None, "semantic_duplicate: 0.98 like a in meaning"]
    assert [example.metadata["cluster"] for example in result.kept] == ["a", "d", "a"]


def test_removed_are_only_those_with_the_same_answer():
    other = example("b", B.prompt, "pear")
    assert [(row.id, row.reason) for row in run(A, B, remove=True).quarantine] == [("b", "semantic_duplicate")]
    assert "like a in meaning, with the same answer" in run(A, B, remove=True).quarantine[0].detail
    kept = run(A, other, remove=True)
    assert kept.quarantine == []
    assert "marked" in kept.kept[1].metadata


def test_of_an_open_task_answers_that_nearly_say_the_same_are_the_same():
    long = "your card was sent on monday and should be with you within five days"
    rows = [example("a", A.prompt, long), example("b", B.prompt, long.replace("five", "six"))]
    assert run(*rows, remove=True, task=OPEN).kept[0].id == "a"


def test_a_row_is_only_taken_out_for_one_that_stays():
    # b is like a, c is like b (8 degrees) but not like a (18 degrees): with b gone, c has no twin any more.
    assert ids(run(A, B, C, remove=True).kept) == ["a", "c"]


def test_a_correction_from_production_stays_before_others():
    assert ids(run(A, example("b", B.prompt, source=FEEDBACK), remove=True).kept) == ["b"]


def test_held_out_rows_are_left_alone():
    rows = [example("h", A.prompt, held_out=True), B, example("i", C.prompt, held_out=True)]
    assert run(*rows, remove=True).kept == [rows[0], example("b", B.prompt, metadata={"cluster": "b"}), rows[2]]


def test_clusters_of_an_earlier_step_are_joined():
    rows = [example("a", A.prompt), example("x", D.prompt, metadata={"cluster": "y"}), example("b", B.prompt, metadata={"cluster": "y"})]
    assert {row.metadata["cluster"] for row in run(*rows).kept} == {"a"}


def test_cleaning_looks_at_meanings_only_if_asked():
    rows = [A, B, D]
    assert ids(clean(rows, spec=CleanSpec(), task=FRUIT).kept) == ["a", "b", "d"]
    spec = CleanSpec(semantic_duplicates=0.97, semantic_action="remove")
    result = clean(rows, spec=spec, task=FRUIT, embed=by_degrees)
    assert ids(result.kept) == ["a", "d"]
    assert [row.reason for row in result.quarantine] == ["semantic_duplicate"]
