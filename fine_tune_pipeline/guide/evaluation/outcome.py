"""The first line of everything that a report says: is the objective met, and by which criterion was that decided."""

from collections.abc import Sequence
from dataclasses import dataclass

from fine_tune_pipeline.guide.evaluation.verdicts import Answer, Verdict


@dataclass(frozen=True)
class Outcome:
    """One verdict for all criteria, and the one that decided it. `n` rows in `groups`; None where there was nothing to look at."""

    verdict: Answer
    why: str
    criterion: str
    n: int | None
    groups: int | None
    estimate: float | None
    bound: float | None
    level: float | None

    @property
    def line(self) -> str:
        """What stands first, such as `Objective met: all 3 criteria hold; …`."""
        return f"Objective {self.verdict}: {self.why}"


def outcome(found: Sequence[Verdict]) -> Outcome:
    """Met only if every criterion is, not met if one is not. The first criterion with that answer decides; of a met objective the first.

    Args:
        found: at least one, in the order of the objective.
    """
    answers = [verdict.verdict for verdict in found]
    overall: Answer = "not met" if "not met" in answers else "cannot tell" if "cannot tell" in answers else "met"
    deciding = [verdict for verdict in found if verdict.verdict == overall]
    first, bounds = deciding[0], deciding[0].bounds
    return Outcome(
        verdict=overall,
        why=f"{_how_many(overall, len(deciding), len(found))}; “{first.criterion}”: {_seen(first)}",
        criterion=first.criterion,
        n=None if bounds is None else bounds.rows,
        groups=None if bounds is None else bounds.clusters,
        estimate=first.estimate,
        bound=first.bound,
        level=first.level,
    )


def _how_many(overall: Answer, deciding: int, all_: int) -> str:
    if overall == "met":
        return "its one criterion holds" if all_ == 1 else f"all {all_} criteria hold"
    said = "missed" if overall == "not met" else "open"
    return f"its one criterion is {said}" if all_ == 1 else f"{deciding} of {all_} criteria {'is' if deciding == 1 else 'are'} {said}"


def _seen(verdict: Verdict) -> str:
    """The reason names estimate and rows; an open one is completed by its level."""
    if verdict.verdict != "cannot tell" or verdict.bounds is None:
        return verdict.reason
    return f"{verdict.reason} (each bound with {100 * verdict.bounds.level:g} % confidence)"
