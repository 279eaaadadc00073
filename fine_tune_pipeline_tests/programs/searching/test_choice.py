"""Which trial is taken, against scipy's own tests and by brute force."""

import random

import pytest
from scipy.stats import binomtest, ttest_rel

from fine_tune_pipeline.programs.search_requests import RungRecord, TrialRecord
from fine_tune_pipeline.programs.searching.choice import beyond, chance, choose, lower_bound


def trial(number: int, scores: list[float], *, tokens: int = 100, trainable: int = 10) -> TrialRecord:
    rung = RungRecord(
        rung=0,
        share=1.0,
        score=sum(scores) / len(scores),
        scores=tuple(scores),
        seconds=1.0,
        tokens=tokens,
        trainable_parameters=trainable,
    )
    return TrialRecord(number=number, parameters={}, rungs=(rung,))


def share(right: int, *, of: int = 100) -> list[float]:
    return [1.0] * right + [0.0] * (of - right)


@pytest.mark.parametrize("seed", range(10))
def test_chance_and_bound_are_those_of_scipy(seed: int):
    draw = random.Random(seed)
    a, b = ([draw.random() + shift for _ in range(30)] for shift in (0.1, 0.0))
    differences = [x - y for x, y in zip(a, b, strict=True)]
    reference = ttest_rel(a, b, alternative="greater")
    assert chance(differences) == pytest.approx(reference.pvalue)
    assert lower_bound(differences, level=0.9) == pytest.approx(reference.confidence_interval(0.9).low)
    binary = [float(draw.choice([-1, 0, 0, 1, 1])) for _ in range(30)]
    wins, losses = binary.count(1.0), binary.count(-1.0)
    assert chance(binary) == pytest.approx(binomtest(wins, wins + losses, alternative="greater").pvalue)


@pytest.mark.parametrize(("differences", "wanted"), [([0.0] * 5, 1.0), ([0.5] * 5, 0.0), ([-0.5] * 5, 1.0), ([0.25], 1.0), ([1.0], 0.5)])
def test_without_spread_it_is_plain(differences: list[float], wanted: float):
    assert chance(differences) == wanted
    assert lower_bound(differences, level=0.95) is None


@pytest.mark.parametrize(
    ("others", "taken"),
    [
        ([], 0),
        ([trial(1, share(90))], 1),
        ([trial(1, share(52))], 1),
        ([trial(1, share(52), tokens=200)], 0),
        ([trial(1, share(90), tokens=200), trial(2, share(89))], 2),
        ([trial(1, share(90), tokens=200), trial(2, share(70))], 1),
        ([trial(1, share(90), trainable=20), trial(2, share(90))], 2),
        ([trial(1, share(49), tokens=1)], 0),
        ([trial(1, share(50), tokens=1)], 1),
        ([trial(1, share(50))], 0),
    ],
    ids=["alone", "better", "hardly better, as cheap", "hardly better, dearer", "a tie goes to the cheaper", "no tie", "smaller"]  # noqa: RUF005
    + ["never below the plan", "as good, cheaper", "as good, as cheap"],
)
def test_the_best_is_taken_or_a_cheaper_one_that_cannot_be_told_from_it(others: list[TrialRecord], taken: int):
    found = choose([trial(0, share(50)), *others], metric="exact_match", higher_is_better=True, level=0.95)
    assert found.number == taken
    assert "exact_match" in found.why


@pytest.mark.parametrize("higher", [True, False])
def test_what_is_taken_is_never_worse_than_the_plan_whatever_the_scores(higher: bool):
    draw, sign = random.Random(0), 1 if higher else -1
    for _ in range(50):
        trials = [trial(number, [draw.random() for _ in range(12)], tokens=draw.randint(1, 3)) for number in range(draw.randint(1, 6))]
        found = choose(trials, metric="loss", higher_is_better=higher, level=0.95)
        assert sign * (trials[found.number].rungs[0].score or 0) >= sign * (trials[0].rungs[0].score or 0)
        assert found.gain >= 0
        best = max(trials, key=lambda one: sign * (one.rungs[0].score or 0))
        assert found.number == best.number or found.number in found.ties


def test_another_base_model_is_proposed_only_where_it_is_shown_to_be_better():
    own = trial(0, share(50))
    assert beyond(own, [], metric="exact_match", higher_is_better=True, level=0.95) is None
    assert beyond(own, [trial(1, share(53))], metric="exact_match", higher_is_better=True, level=0.95) is None
    found = beyond(own, [trial(1, share(60)), trial(2, share(80))], metric="exact_match", higher_is_better=True, level=0.95)
    assert found is not None
    assert (found.number, found.gain) == (2, pytest.approx(0.3))
