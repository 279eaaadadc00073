"""The trial that is taken: the best, or a cheaper one that the rows cannot tell from it; never one below the plan."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from fine_tune_pipeline.programs.search_requests import Choice, TrialRecord

EXACT = {-1.0, 0.0, 1.0}
"""Differences of scores that are right or wrong."""


def chance(differences: Sequence[float]) -> float:
    """Probability of a mean of at least this, if there were no difference: the exact sign test of scores that are 0 or 1, else Student's t.

    Args:
        differences: of two systems on the same rows.
    """
    from scipy.stats import binomtest, t

    if set(differences) <= EXACT:
        wins, losses = differences.count(1.0), differences.count(-1.0)
        return float(binomtest(wins, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0
    error = stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else 0.0
    if error == 0:
        return 0.0 if fmean(differences) > 0 and len(differences) > 1 else 1.0
    return float(t.sf(fmean(differences) / error, len(differences) - 1))


def lower_bound(differences: Sequence[float], *, level: float) -> float | None:
    """One-sided bound of the mean difference, by Student's t; None where there is no spread."""
    from scipy.stats import t

    error = stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else 0.0
    return fmean(differences) - float(t.ppf(level, len(differences) - 1)) * error if error else None


def choose(finalists: Sequence[TrialRecord], *, metric: str, higher_is_better: bool, level: float) -> Choice:
    """Of trials that were judged on the same rows with all their steps.

    Cheaper means fewer tokens learned from, then fewer numbers that learn.

    Args:
        finalists: trial 0 is the first, unless these are of another base model.
        level: at which one counts as worse than the best; what is not is a tie.
    """
    sign, first = _sign(higher_is_better), finalists[0]

    def value(trial: TrialRecord) -> float:
        return sign * fmean(trial.rungs[-1].scores)

    def behind(trial: TrialRecord, other: TrialRecord) -> list[float]:
        return _behind(trial, other, sign=sign)

    best = max(finalists, key=lambda trial: (value(trial), -trial.number))
    ties = [trial for trial in finalists if trial is best or chance(behind(trial, best)) > 1 - level]
    allowed = [trial for trial in ties if value(trial) >= value(first)]
    taken = min(allowed, key=lambda trial: (*_cost(trial), -value(trial), trial.number))
    gains = behind(first, taken)
    return Choice(
        number=taken.number,
        why=_why(taken, best=best, ties=len(ties), metric=metric, level=level),
        gain=fmean(gains),
        gain_bound=lower_bound(gains, level=level),
        ties=tuple(trial.number for trial in ties if trial is not best),
    )


def beyond(taken: TrialRecord, others: Sequence[TrialRecord], *, metric: str, higher_is_better: bool, level: float) -> Choice | None:
    """The best of trials from other base models, if it is shown to be better than what is taken of the chosen one."""
    if not others:
        return None
    sign = _sign(higher_is_better)
    best = max(others, key=lambda trial: (sign * fmean(trial.rungs[-1].scores), -trial.number))
    gains = _behind(taken, best, sign=sign)
    if chance(gains) > 1 - level:
        return None
    why = f"trial {best.number} has {metric} {best.rungs[-1].score:.4f} where the one that is taken has {taken.rungs[-1].score:.4f}"
    return Choice(number=best.number, why=why, gain=fmean(gains), gain_bound=lower_bound(gains, level=level))


def _sign(higher_is_better: bool) -> float:
    return 1.0 if higher_is_better else -1.0


def _behind(trial: TrialRecord, other: TrialRecord, *, sign: float) -> list[float]:
    """How much better the other one is, row by row."""
    return [sign * (theirs - own) for own, theirs in zip(trial.rungs[-1].scores, other.rungs[-1].scores, strict=True)]


def _cost(trial: TrialRecord) -> tuple[int, int]:
    last = trial.rungs[-1]
    return last.tokens, last.trainable_parameters


def _why(taken: TrialRecord, *, best: TrialRecord, ties: int, metric: str, level: float) -> str:
    rows, score, highest = len(taken.rungs[-1].scores), taken.rungs[-1].score, best.rungs[-1].score
    if taken is best:
        return f"trial {taken.number} has the best {metric}: {score:.4f} on {rows} validation rows"
    return (
        f"trial {taken.number} has {metric} {score:.4f}; the best, trial {best.number}, has {highest:.4f}, which {rows} validation rows "
        f"cannot tell from it at level {level:g}; of these {ties} it is the cheapest that is not below trial 0"
    )
