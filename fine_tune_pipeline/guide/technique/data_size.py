"""How much the data asks of the learning rate: short runs want it higher, very long ones lower."""

from typing import NamedTuple

SHORT_STEPS = 100
"""Optimizer steps below which adapters want fifteen times the rate of full tuning instead of ten times: their second halves begin at zero,
and so have to get anywhere first. Source: Thinking Machines, LoRA Without Regret (2025)."""

SHORT_FACTOR = 1.5

SWEPT_ROWS = 100_000
"""Rows that the runs had seen from which our rates come: 780 steps of 128 (Tinker's sweep on tulu3, 2025)."""

HORIZON_POWER = -0.32
"""Of the data, to which the best rate falls. Source: Bjorck et al., Scaling Optimal LR Across Token Horizons (2024). They measured it on
pretraining, so it only lowers the rate, and only beyond what was swept."""

LEAST = 1 / 3
"""Of the rate: a search looks from a third to three times of it, and no rule leaves that range."""


class DataFactor(NamedTuple):
    """Factor on the learning rate, and why."""

    factor: float
    why: str


def data_factor(*, adapters: bool, steps: float, rows: float) -> DataFactor:
    """What the length of a training does to its rate.

    Args:
        adapters: whether adapters learn, not all weights.
        steps: optimizer steps.
        rows: seen in all epochs together.
    """
    if adapters and steps < SHORT_STEPS:
        return DataFactor(SHORT_FACTOR, f"{SHORT_FACTOR:g} times that, as there are only {max(1, round(steps))} steps, below {SHORT_STEPS}")
    if rows > SWEPT_ROWS:
        factor = max(LEAST, (rows / SWEPT_ROWS) ** HORIZON_POWER)
        return DataFactor(factor, f"{factor:.2g} of that, as {rows:.0f} rows are seen, more than {SWEPT_ROWS}")
    return DataFactor(1.0, "")
