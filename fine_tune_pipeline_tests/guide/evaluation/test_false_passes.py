"""How often the gate passes a system that it should not: at most 6 % where 5 % is asked, simulated at the very edge of the criterion.

`RUNS` runs have a standard error of 0.34 points at 5 %, so a seen rate of at most 6 % speaks against true rates above 7 %; all seeds are
fixed. 0/1 scores depend on few numbers, so there the rate is exact or rests on 40,000 runs.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from fine_tune_pipeline.guide.evaluation.corpus import corpus_bounds, drawn
from fine_tune_pipeline.guide.evaluation.statistics import gain_bounds, mean_bounds, wilson
from fine_tune_pipeline.guide.objective.measures.labels import macro_f1

RUNS = 4000
MOST = 0.06
SIZES = [(50, 1), (100, 1), (500, 1), (48, 4), (100, 4), (500, 4)]
"""Rows, and how many of them make a cluster."""

Draw = Callable[[np.random.Generator, int, int], np.ndarray]
"""Generator, rows, rows of a cluster -> scores or gains of all runs, [runs, rows]."""


def ranks(draw: np.random.Generator, rows: int, size: int, *, shared: float = 0.6) -> np.ndarray:
    """Uniform numbers; in a cluster, a row has that of its cluster with probability `shared`."""
    own = draw.random((RUNS, rows))
    if size == 1:
        return own
    return np.where(draw.random((RUNS, rows)) < shared, np.repeat(draw.random((RUNS, rows // size)), size, axis=1), own)


def names(rows: int, size: int) -> list[int] | None:
    return None if size == 1 else (np.arange(rows) // size).tolist()


def paired(wins: float, losses: float) -> Draw:
    """0/1 gains."""

    def gains(draw: np.random.Generator, rows: int, size: int) -> np.ndarray:
        rank = ranks(draw, rows, size)
        return np.where(rank < wins, 1.0, np.where(rank < wins + losses, -1.0, 0.0))

    return gains


def graded(draw: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """Differences of F1 on half of the rows, as often up as down, and the same shift for the rows of a cluster."""
    moved = (draw.random((RUNS, rows)) < 0.5) * draw.normal(0, 0.3, (RUNS, rows))
    return np.clip(moved + (np.repeat(draw.normal(0, 0.2, (RUNS, rows // size)), size, axis=1) if size > 1 else 0.0), -1, 1)


def f1_scores(perfect: float) -> Draw:
    """Scores of which that share is 1 and the others lie anywhere: their mean is (1 + perfect) / 2."""

    def scores(draw: np.random.Generator, rows: int, size: int) -> np.ndarray:
        return np.where(ranks(draw, rows, size) < perfect, 1.0, draw.random((RUNS, rows)))

    return scores


def shares(right: float) -> Draw:
    return lambda draw, rows, size: (ranks(draw, rows, size) < right).astype(float)


@pytest.mark.parametrize(("rows", "size"), SIZES)
@pytest.mark.parametrize(
    ("gains", "binary", "margin"),
    [(paired(0.15, 0.15), True, 0.0), (paired(0.20, 0.10), True, 0.1), (paired(0.13, 0.18), True, -0.05), (graded, False, 0.0)],
    ids=["no gain", "gain of the margin", "not worse by the margin", "graded"],
)
def test_a_gain_that_is_not_there_is_seldom_seen(rows: int, size: int, gains: Draw, binary: bool, margin: float):
    drawn_gains = gains(np.random.default_rng(rows + size), rows, size)
    clusters = names(rows, size)
    passed = sum(gain_bounds(one, level=0.95, clusters=clusters, binary=binary).lower > margin + 1e-12 for one in drawn_gains)
    assert passed / RUNS <= MOST


@pytest.mark.parametrize(("level", "asked"), [(0.97, 0.03), (0.995, 0.005)])
@pytest.mark.parametrize("rows", [50, 100, 500])
def test_looks_at_a_test_set_keep_to_their_level_too(rows: int, level: float, asked: float):
    draw = np.random.default_rng(rows)
    counts = Counter(map(tuple, draw.multinomial(rows, [0.15, 0.15, 0.7], size=40_000)[:, :2].tolist()))
    passed = 0
    for (wins, losses), times in counts.items():
        gains = [1.0] * wins + [-1.0] * losses + [0.0] * (rows - wins - losses)
        passed += times * (gain_bounds(gains, level=level, binary=True).lower > 0)
    assert passed / 40_000 <= 1.2 * asked


@pytest.mark.parametrize(("rows", "size"), SIZES)
@pytest.mark.parametrize(
    ("scores", "binary", "truth"),
    [
        (f1_scores(0.5), False, 0.75),
        (f1_scores(0.9), False, 0.95),
        (f1_scores(0.97), False, 0.985),
        (shares(0.7), True, 0.7),
        (shares(0.95), True, 0.95),
    ],
    ids=["F1, half perfect", "F1, nine of ten perfect", "F1, nearly all perfect", "0/1", "0/1, nearly all right"],
)
def test_a_target_that_is_just_missed_is_seldom_met(rows: int, size: int, scores: Draw, binary: bool, truth: float):
    drawn_scores = scores(np.random.default_rng(rows + size), rows, size)
    clusters = names(rows, size)
    passed = sum(mean_bounds(one, level=0.95, clusters=clusters, binary=binary).lower > truth + 1e-12 for one in drawn_scores)
    assert passed / RUNS <= MOST


@pytest.mark.parametrize("rows", [50, 100, 500])
def test_no_share_passes_more_often_than_asked_and_wilsons_bound_would(rows: int):
    truths = np.linspace(0.02, 0.999, 400)
    chances = binom.pmf(np.arange(rows + 1)[:, None], rows, truths)

    def most(lower: list[float]) -> float:
        return float(((np.array(lower)[:, None] >= truths) * chances).sum(axis=0).max())

    ours = [mean_bounds([1.0] * right + [0.0] * (rows - right), level=0.95, binary=True).lower for right in range(rows + 1)]
    assert most(ours) <= 0.05 + 1e-9
    assert most([wilson(right, rows, level=0.95).lower for right in range(rows + 1)]) > MOST


def test_student_alone_would_pass_too_often_where_most_answers_are_perfect():
    scores = f1_scores(0.9)(np.random.default_rng(1), 50, 1)
    mean, error = scores.mean(axis=1), scores.std(axis=1, ddof=1) / np.sqrt(50)
    assert ((mean - 1.677 * error > 0.95) & (error > 0)).mean() > 0.1


@pytest.mark.parametrize(("rows", "size"), [(500, 1), (500, 4)])
def test_a_real_gain_of_ten_points_is_seen(rows: int, size: int):
    gains = paired(0.2, 0.1)(np.random.default_rng(5), rows, size)[:1000]
    clusters = names(rows, size)
    seen = sum(gain_bounds(one, level=0.95, clusters=clusters, binary=True).lower > 0 for one in gains) / len(gains)
    # Clusters of four of which any two rows are correlated by 0.36 are worth half as many rows.
    assert seen >= (0.95 if size == 1 else 0.75)


CLASSES = 5


def answers(draw: np.random.Generator, rows: int, size: int, right: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """References, and the answers of two equally good systems, which differ on half of the clusters' rows; rare classes are rare."""
    wanted = draw.choice(CLASSES, rows, p=np.arange(1, CLASSES + 1) / 15)
    shift = np.repeat(draw.normal(0, 0.8 if size > 1 else 0.0, (2, rows // size)), size, axis=1)
    good = draw.random((2, rows)) < np.clip(right + 0.2 * shift, 0, 1)
    one, other = np.where(good, wanted, draw.integers(0, CLASSES, (2, rows)))
    return wanted, one, np.where(draw.random(rows) < 0.5, one, other)


def macro_f1_of(wanted: np.ndarray, given: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Of every draw at once: `weights` says how often each cluster is in it, [draws, clusters]."""
    same = np.eye(CLASSES)
    counts = np.concatenate([same[wanted] * same[given], same[given], same[wanted]], axis=1).reshape(len(wanted) // size, size, -1)
    right, answered, there = np.split(weights @ counts.sum(axis=1), 3, axis=1)
    f1 = np.where(there > 0, 2 * right / np.maximum(answered + there, 1), 0.0)
    return f1.sum(axis=1) / np.maximum((there > 0).sum(axis=1), 1)


def test_the_simulated_macro_f1_is_the_one_that_is_judged():
    draw = np.random.default_rng(2)
    wanted, one, _ = answers(draw, 100, 1, 0.7)
    corpus = macro_f1()
    assert macro_f1_of(wanted, one, np.ones((1, 100)), 1)[0] == pytest.approx(corpus.value(np.column_stack([wanted, one]).astype(float)))
    ours = drawn(corpus, np.column_stack([wanted, one]).tolist(), clusters=list(range(100)), draws=4000)
    theirs = macro_f1_of(wanted, one, draw.multinomial(100, np.full(100, 0.01), size=4000).astype(float), 1)
    assert np.quantile(ours, [0.05, 0.5, 0.95]) == pytest.approx(np.quantile(theirs, [0.05, 0.5, 0.95]), abs=0.01)


@pytest.mark.parametrize(("rows", "size"), [(50, 1), (100, 1), (500, 1), (48, 4), (100, 4), (500, 4)])
def test_a_gain_in_macro_f1_that_is_not_there_is_seldom_seen(rows: int, size: int):
    """1,000 runs of 400 draws: a standard error of 0.7 points; the rule is careful enough to be seen below 6 % all the same."""
    draw, groups, passed = np.random.default_rng(rows + size), rows // size, 0
    weights = np.vstack([np.ones(groups), draw.multinomial(groups, np.full(groups, 1 / groups), size=400)])
    for _ in range(1000):
        wanted, one, other = answers(draw, rows, size, 0.7)
        gain = macro_f1_of(wanted, one, weights, size) - macro_f1_of(wanted, other, weights, size)
        found = corpus_bounds(float(gain[0]), gain[1:], level=0.95, rows=rows, clusters=groups, low=-1, high=1)
        passed += found.lower > 0
    assert passed / 1000 <= MOST
