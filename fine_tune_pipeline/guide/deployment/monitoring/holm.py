"""Several tests at once, of which some matter more: p-values that keep the chance of any false alarm."""

from collections.abc import Mapping


def weighted_holm(p_values: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values: comparing each with alpha keeps the chance of any false alarm of the family at alpha, however the tests depend.

    A test with twice the weight may spend twice as much of alpha. With equal weights it is Holm's step-down procedure.

    Args:
        p_values: of each test.
        weights: of each test at least, above 0; only their ratios matter.

    Source: S. Holm, Scand. J. Statist. 6 (1979), 65-70, section 4.
    """
    ordered = sorted(p_values, key=lambda name: p_values[name] / weights[name])
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(ordered):
        left = sum(weights[other] for other in ordered[place:])
        largest = max(largest, min(1.0, p_values[name] * left / weights[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
