"""The curve a - b · n^-c through scores by number of training rows, for many draws of the scores at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_EXPONENT, MOST_EXPONENT, EXPONENTS = 0.05, 2.0, 79

USUAL_EXPONENT = 0.5
"""Taken where three sizes leave no third parameter to fit: errors shrink with the root of the rows."""


@dataclass(frozen=True)
class PowerLaw:
    """A curve for each draw: `top - gap · (rows / scale)^-exponent`; arrays [draws]."""

    top: "NDArray[np.float64]"
    gap: "NDArray[np.float64]"
    exponent: "NDArray[np.float64]"
    scale: float

    def at(self, rows: float) -> "NDArray[np.float64]":
        """The score after so many training rows, by draw."""
        return self.top - self.gap * (rows / self.scale) ** -self.exponent


def fitted(sizes: "NDArray[np.float64]", scores: "NDArray[np.float64]", *, ceiling: float) -> PowerLaw:
    """Least squares, with a curve that never falls and never passes the ceiling.

    For a fixed exponent the other two have a closed form, so the exponent alone is searched, on a grid (variable projection, Golub and
    Pereyra 1973): no start values, and no fit that fails. `test_power_law.py` compares with `scipy.optimize.curve_fit`.

    Args:
        sizes: [sizes], at least three, rising.
        scores: [draws, sizes].
        ceiling: the best score that there is.
    """
    import numpy as np

    exponents = np.array([USUAL_EXPONENT]) if len(sizes) < 4 else np.linspace(LEAST_EXPONENT, MOST_EXPONENT, EXPONENTS)
    scale, draws = float(sizes[-1]), np.arange(len(scores))
    lines = [_line(scores, (sizes / scale) ** -exponent, ceiling) for exponent in exponents]
    best = np.argmin([miss for _, _, miss in lines], axis=0)
    top, gap = (np.array([line[part] for line in lines])[best, draws] for part in (0, 1))
    return PowerLaw(top=top, gap=gap, exponent=exponents[best], scale=scale)


def _line(
    scores: "NDArray[np.float64]", x: "NDArray[np.float64]", ceiling: float
) -> tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]:
    """Top, gap and squared miss of the best `top - gap · x` with gap >= 0 and top <= ceiling, by draw."""
    import numpy as np

    centred = x - x.mean()
    gap = np.maximum(0.0, -(scores @ centred) / (centred @ centred))
    top = scores.mean(axis=1) + gap * x.mean()
    above = top > ceiling
    gap = np.where(above, np.maximum(0.0, (ceiling - scores) @ x / (x @ x)), gap)
    top = np.minimum(top, ceiling)
    return top, gap, ((scores - top[:, None] + gap[:, None] * x) ** 2).sum(axis=1)
