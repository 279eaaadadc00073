"""Which steps are learned from: not those whose loss or gradient is no number, nor those whose loss leaps up."""

import math
from collections import deque
from statistics import median

WINDOW = 32
"""Losses that a new one is compared with."""

ENOUGH = 16
"""Losses below which nothing is called a leap: the first steps fall steeply and unevenly."""

LEAP_NATS = 1.0
LEAP_SPREADS = 10.0
"""A leap is this far above the median of the window: so many nats, and so many of its spread (median absolute deviation, scaled to a
standard deviation). Rows differ, and a hard batch must not be taken for one."""

PATIENCE = 3
"""Skipped steps in a row after which the training itself is taken to be wrong, not the rows."""


class Diverged(ArithmeticError):
    """Step after step cannot be learned from."""


class Steadiness:
    """Judges each step by those before; `losses` and `in_a_row` are all that it remembers."""

    def __init__(self, losses: tuple[float, ...] = (), in_a_row: int = 0) -> None:
        self.losses = deque(losses, maxlen=WINDOW)
        self.in_a_row = in_a_row

    def objection(self, loss: float, gradient_norm: float) -> str | None:
        """Why a step must be skipped; None if it can be learned from.

        Args:
            loss: nats per labelled token.
            gradient_norm: before clipping.
        """
        why = self._objection(loss, gradient_norm)
        if why is None:
            self.losses.append(loss)
            self.in_a_row = 0
        else:
            self.in_a_row += 1
        return why

    @property
    def lost(self) -> bool:
        """Whether skipping further is no use."""
        return self.in_a_row >= PATIENCE

    def _objection(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(gradient_norm):
            return f"the gradient's norm is {gradient_norm}, with a loss of {loss:.4g}"
        if len(self.losses) < ENOUGH:
            return None
        middle = median(self.losses)
        spread = 1.4826 * median(abs(each - middle) for each in self.losses)
        if loss > middle + max(LEAP_NATS, LEAP_SPREADS * spread):
            return f"the loss leaps to {loss:.4g} from {middle:.4g}, the median of the last {len(self.losses)} steps"
        return None
