"""How long the texts of a set are: percentiles for people, and counts by range for a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

BINS = 24


@dataclass(frozen=True)
class Lengths:
    """In one unit, such as characters or tokens. Percentiles are lengths that occur; `counts[n]` are from `n * width` up to the next."""

    rows: int
    total: int
    p50: int
    p90: int
    p99: int
    longest: int
    width: int
    counts: tuple[int, ...]


def lengths(values: Sequence[int]) -> Lengths:
    """Of any number of texts; all zero without any."""
    if not values:
        return Lengths(rows=0, total=0, p50=0, p90=0, p99=0, longest=0, width=1, counts=())
    ranked = sorted(values)
    width = max(1, ceil((ranked[-1] + 1) / BINS))
    counts = [0] * (ranked[-1] // width + 1)
    for value in ranked:
        counts[value // width] += 1
    at = {share: ranked[ceil(share / 100 * len(ranked)) - 1] for share in (50, 90, 99)}
    return Lengths(len(ranked), sum(ranked), at[50], at[90], at[99], ranked[-1], width, tuple(counts))
