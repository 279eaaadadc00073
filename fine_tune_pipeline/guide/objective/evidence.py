"""What a test set of n rows can show, before anything is trained. Normal approximations; no data needed."""

from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist

DISAGREEMENT = 0.3
"""Share of rows on which two systems differ, while nothing has been measured: 0.1 to 0.3 is usual, and more is the careful choice."""


@dataclass(frozen=True)
class Detectable:
    """The smallest true gain that a test set shows with the wanted power, and what it was computed from."""

    gain: float
    rows: int
    disagreement: float
    level: float
    power: float


def smallest_detectable_gain(rows: int, *, level: float, power: float, disagreement: float = DISAGREEMENT) -> Detectable:
    """Solve n = (z_level + z_power)^2 (pi - d^2) / d^2 for d: the paired one-sided test on 0/1 scores of which a share pi differs.

    A score between 0 and 1 varies less than one that is 0 or 1, so for such metrics the figure is on the careful side.
    """
    z = _z(level) + _z(power)
    return Detectable(gain=z * sqrt(disagreement / (rows + z * z)), rows=rows, disagreement=disagreement, level=level, power=power)


def rows_to_detect(gain: float, *, level: float, power: float, disagreement: float = DISAGREEMENT) -> int:
    """Rows from which a true gain of this size is shown with the wanted power; at least 1."""
    z = _z(level) + _z(power)
    # A gain cannot exceed the share of rows that differ.
    differ = max(disagreement, gain)
    return max(1, ceil(z * z * (differ - gain * gain) / (gain * gain)))


def best_lower_bound(rows: int, *, level: float) -> float:
    """Wilson's one-sided lower bound when not one of the rows is wrong: no model can be shown to be better than this."""
    z = _z(level)
    return rows / (rows + z * z)


def rows_for_target(target: float, *, level: float) -> int:
    """Faultless rows from which `target` (below 1) can be shown at all."""
    z = _z(level)
    return ceil(target * z * z / (1 - target))


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)
