"""Which trial is trained next, and how far: synchronous halving, as a function of what has been done and what is running.

Trial 0, the plan, comes first: it is what the others are held against, and it shows what they will cost. All others are trained for the
first rung; when the last of them is judged, the best are trained for the next. Nothing is remembered but the records, so that a search that
was broken off decides as it would have.

Several trainings may run at the same time. Then trial n is proposed as soon as the first rungs of trials 0 to n - `at_once` are judged, and
from these alone: which of the others ends first changes nothing.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from fine_tune_pipeline.programs.search_requests import TrialRecord


@dataclass(frozen=True)
class Rules:
    """Of the halving: how many trials, how many rungs, which share of them goes on, and whether a higher score is better.

    `at_once`: trainings at the same time. `plan_alone`: no other begins before trial 0 has gone through all rungs.
    """

    trials: int
    rungs: int
    keep: float
    higher_is_better: bool
    at_once: int = 1
    plan_alone: bool = True


@dataclass(frozen=True)
class Climb:
    """Train a trial for a rung, counted from 0."""

    number: int
    rung: int


@dataclass(frozen=True)
class Propose:
    """Ask for one more trial."""


@dataclass(frozen=True)
class Wait:
    """What is to be done next depends on what is running."""


@dataclass(frozen=True)
class Over:
    """Nothing is left to do; `skipped` trials or rungs did not fit."""

    skipped: int


Fits = Callable[[TrialRecord, int], bool]
"""Whether a trial may be trained for a rung, by what is left of the budget."""


Step = Climb | Propose | Wait | Over


def next_step(trials: Sequence[TrialRecord], rules: Rules, *, fits: Fits, more: bool, running: Collection[int] = ()) -> Step:
    """What to do now.

    Args:
        trials: by number.
        fits: is asked for all but trial 0, which is always trained.
        more: whether another trial can still be proposed.
        running: numbers of those that are being trained for their next rung.
    """
    if len(running) >= rules.at_once:
        return Wait()
    if not trials:
        return Propose()
    if not trials[0].failed and len(trials[0].rungs) < rules.rungs:
        if 0 not in running:
            return Climb(0, len(trials[0].rungs))
        if rules.plan_alone:
            return Wait()
    new = [trial for trial in trials if not trial.rungs and trial.number not in running]
    for trial in new:
        if fits(trial, 0):
            return Climb(trial.number, 0)
    if not new and more and len(trials) < rules.trials:
        return Propose() if all(trial.rungs for trial in known(trials, rules.at_once)) else Wait()
    return _further(trials, rules, fits=fits, running=running, skipped=len(new))


def known(trials: Sequence[TrialRecord], at_once: int) -> Sequence[TrialRecord]:
    """Those by whose results the next one is proposed."""
    return trials[: max(0, len(trials) - at_once + 1)]


def _further(trials: Sequence[TrialRecord], rules: Rules, *, fits: Fits, running: Collection[int], skipped: int) -> Step:
    """What to do once all trials have come to the first rung, or are on their way there."""
    for rung in range(1, rules.rungs):
        # Who goes on is known when all are judged.
        if any(len(trials[number].rungs) == rung - 1 for number in running):
            return Wait()
        for number in promoted(trials, rung, rules):
            if len(trials[number].rungs) > rung or trials[number].failed or number in running:
                continue
            if fits(trials[number], rung):
                return Climb(number, rung)
            skipped += 1
    return Wait() if running else Over(skipped)


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
