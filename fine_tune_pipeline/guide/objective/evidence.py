"""What a test set of n rows can show, before anything is trained: normal approximations and exact bounds; no data needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log, sqrt
from statistics import NormalDist

from fine_tune_pipeline.spec.objective import ObjectiveSpec

DISAGREEMENT = 0.3
"""Share of rows on which two systems differ, while nothing has been measured: 0.1 to 0.3 is usual, and more is the careful choice."""


CORRELATION = 0.5
"""Between the gains of two rows of one cluster, while nothing has been measured: near duplicates mostly share their fate."""

LOOKS = 5
"""At one test set; then fresh items are asked for."""

FIRST_LOOK, LATER_LOOK = 0.6, 0.1
"""Shares of 1 - level that a look may spend: at .95 the first one .03, four more .005 each, .05 in all."""


@dataclass(frozen=True)
class Detectable:
    """The smallest true gain that a test set shows with the wanted power, and what it was computed from."""

    gain: float
    rows: int
    disagreement: float
    level: float
    power: float


def look_level(number: int, *, level: float) -> float:
    """The level of the bounds at the so-manieth look at a test set, of at most `LOOKS`, so that all of them together keep to `level`."""
    return round(1 - (FIRST_LOOK if number == 1 else LATER_LOOK) * (1 - level), 12)


def at_look(objective: ObjectiveSpec, number: int) -> ObjectiveSpec:
    """The objective with the level of that look, or of the last one when the level is spent."""
    level = look_level(min(number, LOOKS), level=objective.evidence.level)
    return objective.model_copy(update={"evidence": objective.evidence.model_copy(update={"level": level})})


def smallest_detectable_gain(
    rows: int, *, level: float, power: float, disagreement: float = DISAGREEMENT, design_effect: float = 1.0
) -> Detectable:
    """Solve n = (z_level + z_power)^2 (pi - d^2) / d^2 for d: the paired one-sided test on 0/1 scores of which a share pi differs.

    A score between 0 and 1 varies less than one that is 0 or 1, so for such metrics the figure is on the careful side.

    Args:
        design_effect: by how much clusters widen the variance; so many times fewer rows count.
    """
    z = _z(level) + _z(power)
    gain = z * sqrt(disagreement / (rows / design_effect + z * z))
    return Detectable(gain=gain, rows=rows, disagreement=disagreement, level=level, power=power)


def design_effect(sizes: Sequence[int], *, correlation: float = CORRELATION) -> float:
    """How much wider the variance of a mean is when rows come in clusters of these sizes: 1 + (m - 1) · correlation.

    m is the size of the cluster that a row is in, on average over the rows (Kish 1965); 1 for rows that stand alone.
    """
    return 1 + (sum(size * size for size in sizes) / sum(sizes) - 1) * correlation


def rows_to_detect(gain: float, *, level: float, power: float, disagreement: float = DISAGREEMENT) -> int:
    """Rows from which a true gain of this size is shown with the wanted power; at least 1."""
    z = _z(level) + _z(power)
    # A gain cannot exceed the share of rows that differ.
    differ = max(disagreement, gain)
    return max(1, ceil(z * z * (differ - gain * gain) / (gain * gain)))


def best_lower_bound(rows: int, *, level: float) -> float:
    """The exact one-sided lower bound when not one of the rows is wrong: no model can be shown to be better than this."""
    return float((1 - level) ** (1 / rows)) if rows else 0.0


def rows_for_target(target: float, *, level: float) -> int:
    """Faultless rows from which `target` (below 1) can be shown at all."""
    return ceil(log(1 - level) / log(target))


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)
