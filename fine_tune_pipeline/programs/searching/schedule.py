"""Which trial is trained next, and how far: synchronous halving, as a function of what has been done.

Trial 0, the plan, goes through all rungs before any other begins: it is what the others are held against, and it shows what they will cost.
Then all others are trained for the first rung, the best of them for the next. Nothing is remembered but the records, so that a search that
was broken off decides as it would have.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fine_tune_pipeline.programs.search_requests import TrialRecord


@dataclass(frozen=True)
class Rules:
    """Of the halving: how many trials, how many rungs, which share of them goes on, and whether a higher score is better."""

    trials: int
    rungs: int
    keep: float
    higher_is_better: bool


@dataclass(frozen=True)
class Climb:
    """Train a trial for a rung, counted from 0."""

    number: int
    rung: int


@dataclass(frozen=True)
class Propose:
    """Ask for one more trial."""


@dataclass(frozen=True)
class Over:
    """Nothing is left to do; `skipped` trials or rungs did not fit."""

    skipped: int


Fits = Callable[[TrialRecord, int], bool]
"""Whether a trial may be trained for a rung, by what is left of the budget."""


def next_step(trials: Sequence[TrialRecord], rules: Rules, *, fits: Fits, more: bool) -> Climb | Propose | Over:
    """What to do now.

    Args:
        trials: by number.
        fits: is asked for all but trial 0, which is always trained.
        more: whether another trial can still be proposed.
    """
    if not trials:
        return Propose()
    if not trials[0].failed and len(trials[0].rungs) < rules.rungs:
        return Climb(0, len(trials[0].rungs))
    new = [trial for trial in trials if not trial.rungs]
    for trial in new:
        if fits(trial, 0):
            return Climb(trial.number, 0)
    if not new and more and len(trials) < rules.trials:
        return Propose()
    skipped = len(new)
    for rung in range(1, rules.rungs):
        for number in promoted(trials, rung, rules):
            if len(trials[number].rungs) > rung:
                continue
            if trials[number].failed:
                continue
            if fits(trials[number], rung):
                return Climb(number, rung)
            skipped += 1
    return Over(skipped)


def promoted(trials: Sequence[TrialRecord], rung: int, rules: Rules) -> list[int]:
    """Numbers of those that come to `rung`, the best of the rung before first; trial 0 beside them if it is none of them."""
    before = [trial for trial in trials if len(trial.rungs) >= rung and not _failed_by(trial, rung)]
    best = sorted(before, key=lambda trial: (-_signed(trial, rung - 1, rules), trial.number))
    chosen = [trial.number for trial in best[: max(1, math.ceil(rules.keep * len(before)))]]
    return chosen if 0 in chosen or not any(trial.number == 0 for trial in before) else [*chosen, 0]


def finalists(trials: Sequence[TrialRecord], rules: Rules) -> Iterator[TrialRecord]:
    """Trials that were judged at the last rung."""
    return (trial for trial in trials if len(trial.rungs) == rules.rungs and not trial.failed)


def _failed_by(trial: TrialRecord, rung: int) -> bool:
    return any(one.failed for one in trial.rungs[:rung])


def _signed(trial: TrialRecord, rung: int, rules: Rules) -> float:
    score = trial.rungs[rung].score
    assert score is not None
    return score if rules.higher_is_better else -score
