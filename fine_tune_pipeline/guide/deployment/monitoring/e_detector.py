"""Has the share of good answers fallen? A test that may be looked at after every label.

An e-detector: for each of several shares that would be worse, the likelihood ratio against the expected share is multiplied up label by
label, and starts again at 1 whenever it has fallen below. Its largest value so far is compared with that of simulated streams in which
nothing has changed, each looked at after every label too.

Source: J. Shin, A. Ramdas, A. Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (2022), with restarts as
in E. S. Page, Biometrika 41 (1954), 100-115.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

HORIZON = 2_000
"""Labels over which the chance of a false alarm is kept; of a longer stream the last so many are looked at."""

STREAMS = 4_000
WORSE = (0.93, 0.85, 0.7, 0.4)
"""Shares that are bet on, as parts of the expected one: a small fall is found late by bets on a large one, and the other way round."""

NEAR = 0.001
"""Expected shares are taken at least so far from 0 and 1, where one label would decide."""


@dataclass(frozen=True)
class Detected:
    """What a stream of labels says. `p` holds at any look; `values` is the detector after each label; `recent` is the share since the
    detector last started again before its largest value, which is where the fall seems to begin."""

    p: float
    values: tuple[float, ...]
    labels: int
    share: float
    since: int
    recent: float


def detect(good: Sequence[bool], *, expected: float) -> Detected:
    """Test that the share of good answers has fallen below `expected` at some time.

    Args:
        good: labels, oldest first; at least one.
        expected: share of good answers while nothing has changed.
    """
    import numpy as np

    labels = np.array(good[-HORIZON:], dtype=bool)
    values, parts = _values(labels[None, :], _near(expected))
    peak = int(values[0].argmax())
    largest = _largest_when_quiet(_near(expected))
    strongest = parts[0, : peak + 1, int(parts[0, peak].argmax())]
    restarts = np.flatnonzero(strongest[:peak] <= 1)
    since = int(restarts[-1]) + 1 if len(restarts) else 0
    return Detected(
        p=float((1 + (largest >= values[0, peak] * (1 - 1e-9)).sum()) / (1 + len(largest))),
        values=tuple(float(value) for value in values[0]),
        labels=len(labels),
        share=float(labels.mean()),
        since=since,
        recent=float(labels[since:].mean()),
    )


def _near(expected: float) -> float:
    return round(min(max(expected, NEAR), 1 - NEAR), 3)


def _values(labels: "np.ndarray", expected: float) -> "tuple[np.ndarray, np.ndarray]":
    """The detector after each label: float64 [streams, labels], and its parts [streams, labels, bets].

    Args:
        labels: bool [streams, labels].
    """
    import numpy as np

    worse = np.array(WORSE) * expected
    right, wrong = worse / expected, (1 - worse) / (1 - expected)
    parts = np.empty((*labels.shape, len(WORSE)))
    now = np.ones((labels.shape[0], len(WORSE)))
    for place in range(labels.shape[1]):
        now = np.maximum(now, 1.0) * np.where(labels[:, place, None], right, wrong)
        parts[:, place] = now
    return parts.mean(axis=2), parts


@lru_cache(maxsize=16)
def _largest_when_quiet(expected: float) -> "np.ndarray":
    """The largest value of each of many streams in which the share stays as expected: float64 [streams]."""
    import numpy as np

    draw = np.random.default_rng(0)
    worse = np.array(WORSE) * expected
    right, wrong = worse / expected, (1 - worse) / (1 - expected)
    now, largest = np.ones((STREAMS, len(WORSE))), np.zeros(STREAMS)
    for _ in range(HORIZON):
        good = draw.random(STREAMS) < expected
        now = np.maximum(now, 1.0) * np.where(good[:, None], right, wrong)
        largest = np.maximum(largest, now.mean(axis=1))
    return largest
