"""Criteria that say the same twice, or that cannot all hold."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import NamedTuple

from fine_tune_pipeline.spec.objective import Criterion, ObjectiveSpec


class Placed(NamedTuple):
    """A criterion and where it stands."""

    place: str
    criterion: Criterion


def conflicts(objective: ObjectiveSpec, *, text: Callable[[Criterion], str]) -> Iterator[str]:
    """Pairs of criteria of which one is superfluous, or of which only one can be met, as sentences with a proposal.

    Args:
        text: how a criterion is said.
    """
    placed = [
        Placed(f"objective.{part}[{place}]", criterion)
        for part, criteria in (("success", objective.success), ("guards", objective.guards))
        for place, criterion in enumerate(criteria)
    ]
    for one, other in combinations(placed, 2):
        if (one.criterion.metric, one.criterion.slice) == (other.criterion.metric, other.criterion.slice):
            yield from _conflict(one, other, text)


def _conflict(one: Placed, other: Placed, text: Callable[[Criterion], str]) -> Iterator[str]:
    said = f"{other.place} ({text(other.criterion)})"
    begin = f"{one.place} ({text(one.criterion)})"
    if one.criterion == other.criterion:
        yield f"{said}: {one.place} says the same; keep one of them"
    elif _same_demand(one.criterion, other.criterion):
        yield f"{said}: {begin} asks the same with another number, and the stricter of the two decides; keep that one"
    elif _exclude(one.criterion, other.criterion) or _exclude(other.criterion, one.criterion):
        yield f"{said}: {begin} asks for the contrary, so not both can hold; give at_most the larger number, or drop one"


def _same_demand(one: Criterion, other: Criterion) -> bool:
    bounds = any(getattr(one, name) is not None and getattr(other, name) is not None for name in ("at_least", "at_most"))
    rivals = any(getattr(one, name) is not None and getattr(one, name) == getattr(other, name) for name in ("beats", "versus"))
    return bounds or rivals


def _exclude(one: Criterion, other: Criterion) -> bool:
    """Whether the lower bound of the one is not below the upper bound of the other: nothing would be both, or one number alone."""
    return one.at_least is not None and other.at_most is not None and one.at_least >= other.at_most
