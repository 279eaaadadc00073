"""How far people who judged the same things agree beyond chance, and how far a figure of theirs would move with other things.

Shapes in this file: U units that several people judged, V kinds of answer, R weightings of the units (the first one plain, then resamples).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.975
"""Of each bound: between them the truth lies with 95 %."""

RESAMPLES = 2000

WEAK = 0.4
"""Agreement beyond chance below which the question, rather than the answers, should be looked at."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BeyondChance:
    """Agreement beyond what people who guess would reach: 1 is full, 0 is none. Bounds by bootstrap over units."""

    name: str
    value: float
    lower: float
    upper: float


def beyond_chance(name: str, figure: Callable[[Floats], Floats], units: int, *, seed: int) -> BeyondChance | None:
    """A figure with its bounds; None where it cannot be known, as when all answers are alike.

    Args:
        figure: gives it for each weighting of the units (R x U).
    """
    draws = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
    values = figure(np.vstack([np.ones((1, units)), draws]))
    if np.isnan(values[0]):
        return None
    known = values[1:][~np.isnan(values[1:])]
    lower, upper = np.quantile(known, [1 - LEVEL, LEVEL]) if len(known) else (values[0], values[0])
    return BeyondChance(name, float(values[0]), float(lower), float(upper))


def alpha_of(answers: Sequence[Sequence[int]], *, distances: Floats, seed: int) -> BeyondChance | None:
    """Krippendorff's alpha over units; None where fewer than two people judged any, or all answers are alike.

    Args:
        answers: of each unit, the numbers of the kinds that people gave (0 to V - 1).
        distances: between kinds (V x V).
    """
    kinds = len(distances)
    counts = np.array([np.bincount(unit, minlength=kinds) for unit in answers if len(unit) > 1], dtype=float)
    if not len(counts):
        return None
    return beyond_chance("Krippendorff's alpha", lambda weights: alphas(counts, weights, distances=distances), len(counts), seed=seed)


def nominal(kinds: int) -> Floats:
    """Distances where answers are alike or not."""
    return 1 - np.eye(kinds)


def interval(values: Sequence[float]) -> Floats:
    """Distances where answers are numbers: the square of their difference."""
    numbers = np.asarray(values, dtype=float)
    return np.square(numbers[:, None] - numbers[None, :])


def kappas(first: Floats, second: Floats, weights: Floats) -> Floats:
    """Cohen's kappa of two people for each weighting of the units; nan where chance alone would make them agree.

    Args:
        first: one person's answers as ones and zeros (U x V); `second` the other's.
        weights: how often each unit counts (R x U).

    Source: J. Cohen, Educational and Psychological Measurement 20 (1960), 37-46; the test compares with scikit-learn.
    """
    total = weights.sum(axis=1)
    seen = weights @ (first * second).sum(axis=1) / total
    chance = ((weights @ first) * (weights @ second)).sum(axis=1) / total**2
    return _beyond(1 - seen, 1 - chance)


def alphas(counts: Floats, weights: Floats, *, distances: Floats) -> Floats:
    """Krippendorff's alpha for each weighting of the units; nan where all answers are alike.

    Args:
        counts: how many people gave which answer (U x V); each unit has at least two people.
        weights: how often each unit counts (R x U).
        distances: between answers (V x V), 0 on the diagonal.

    Source: K. Krippendorff, Computing Krippendorff's alpha-reliability (2011), sections C and D; the tests take its example.
    """
    people = counts.sum(axis=1)
    apart = np.einsum("uv,vw,uw->u", counts, distances, counts) / (people - 1)
    answers = weights @ people
    kinds = weights @ counts
    seen = weights @ apart / answers
    chance = np.einsum("rv,vw,rw->r", kinds, distances, kinds) / (answers * (answers - 1))
    return _beyond(seen, chance)


def _beyond(seen: Floats, chance: Floats) -> Floats:
    """1 - disagreement seen / disagreement by chance."""
    possible = chance > 1e-12
    return np.where(possible, 1 - seen / np.where(possible, chance, 1.0), np.nan)
