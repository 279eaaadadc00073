"""Where single answers may differ, the score decides whether the model is still the one that was evaluated."""

from dataclasses import replace

import pytest
from scipy.stats import norm

from fine_tune_pipeline.artifacts.examples import Asked, Example
from fine_tune_pipeline.guide.deployment.kept_score import kept_score, paired
from fine_tune_pipeline.guide.deployment.parity import Evaluated, compare, parity_check
from fine_tune_pipeline.guide.objective.task import task_of

TASK = task_of({"type": "classification", "labels": ["a", "b"]})


def rows(count: int) -> list[Example]:
    return [Example(id=str(place), prompt=f"text {place}", completion="a") for place in range(count)]


def test_the_interval_of_a_share_is_wilsons():
    pairs = [(row, "a" if place < 40 else "b", "a") for place, row in enumerate(rows(50))]
    found = kept_score(pairs, task=TASK)
    assert found is not None
    n, share, z = 50, 0.8, norm.ppf(0.975)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    assert (found.evaluated.lower, found.evaluated.upper) == pytest.approx((middle - half, middle + half), abs=1e-9)
    assert (found.served, found.same) == (1.0, False)


@pytest.mark.parametrize(("wrong", "same"), [(2, True), (12, False)])
def test_a_few_other_answers_keep_the_score_and_many_do_not(wrong: int, same: bool):
    pairs = [(row, "a" if place < 45 else "b", "b" if place < wrong else "a" if place < 45 else "b") for place, row in enumerate(rows(50))]
    found = kept_score(pairs, task=TASK)
    assert found is not None
    assert found.same is same
    assert ("within" in found.said) is same


def test_parity_passes_only_with_the_same_score():
    asked = [Evaluated(id=row.id, asked=Asked(row.prompt), evaluated="a") for row in rows(20)]

    def served(question: Asked, *, model: str) -> str:
        return "base" if model == "base" else "b" if question.prompt in ("text 3", "text 4") else "a"

    parity = compare(asked, served, version="v1", base="base", least_share=0.9)
    assert parity.passed
    pairs = paired(rows(20), {row.id: row.evaluated for row in asked}, parity.differences)
    assert sorted(row.id for row, evaluated, got in pairs if evaluated != got) == ["3", "4"]
    kept = replace(parity, score=kept_score(pairs, task=TASK))
    assert kept.score is not None
    assert (kept.score.served, kept.score.same, kept.passed) == (0.9, True, True)
    worse = replace(parity, score=replace(kept.score, served=0.6))
    assert not worse.passed
    assert "outside" in parity_check(worse).description
