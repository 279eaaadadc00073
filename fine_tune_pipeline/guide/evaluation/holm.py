"""Many tests at once, where any hit counts: p-values that keep the chance of even one false hit at the level."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order of the input: at most 5 % of families with no effect have one below 0.05, however they depend.

    The smallest is multiplied by the number of tests, the next by one less, and so on; none is smaller than one before it, or above 1.

    Source: S. Holm, Scand. J. Statist. 6 (1979), 65-70.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
