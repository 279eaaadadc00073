"""How far a judge can be believed: it is held against people on the rows that they rated."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.human.judgements import Judgement, points_of
from fine_tune_pipeline.guide.evaluation.human.pairs import Secret
from fine_tune_pipeline.guide.evaluation.human.reviewers import SHOWN_LEVEL, item_means
from fine_tune_pipeline.guide.evaluation.judge.asking import Judged
from fine_tune_pipeline.guide.evaluation.judge.prediction_powered import corrected
from fine_tune_pipeline.guide.evaluation.statistics import bootstrap_bounds, wilson
from fine_tune_pipeline.people.agreement import BeyondChance, beyond_chance, kappas

LEAST_RATED = 50
"""Rows that people must have rated before a judge is believed at all."""

ALLOWED = 0.1
"""A judge may agree with people so much less than people do with each other."""


@dataclass(frozen=True)
class Calibration:
    """`agreement` is the share of rated rows on which judge and people prefer the same (one, the other, or neither); `people` the same
    between two people, None where no row was rated by two."""

    rated: int
    agreement: Bounds | None
    kappa: BeyondChance | None
    people: float | None

    @property
    def calibrated(self) -> bool:
        return self.rated >= LEAST_RATED

    @property
    def doubt(self) -> str | None:
        """Why the judge decides nothing; None if it may."""
        if not self.calibrated or self.agreement is None:
            return f"uncalibrated: people rated {self.rated} of the {LEAST_RATED} test rows that it needs"
        if self.kappa is None or self.kappa.lower <= 0:
            return "it does not agree with people beyond chance"
        if self.people is not None and self.agreement.lower < self.people - ALLOWED:
            return (
                f"it agrees with people on {self.agreement.estimate:.0%} of the rows (at least {self.agreement.lower:.0%}), "
                f"people with each other on {self.people:.0%}"
            )
        return None


@dataclass(frozen=True)
class JudgeResult:
    """`alone` is the judge's own win rate of the fine-tuned model, biased by an unknown amount; `corrected` the one that people on all
    rows would give, None while too few rows are rated, `lower` its one-sided bound."""

    rows: int
    alone: Bounds | None
    flips: Bounds | None
    calibration: Calibration
    corrected: Bounds | None
    lower: float | None


def judge_result(judged: Sequence[Judged], people: Mapping[str, float], *, between: float | None, level: float, seed: int) -> JudgeResult:
    """What the judge says, alone and corrected by people.

    Args:
        people: test row -> their points for the fine-tuned model; a random part of all rows.
        between: how far two people agree.
        level: of the one-sided lower bound.
    """
    scores = [one.points for one in judged]
    rated = [(people[one.row], one.points) for one in judged if one.row in people]
    calibration = _calibration(rated, between=between, seed=seed)
    fixed = [corrected(scores, rated=rated, level=at) if calibration.calibrated else None for at in (SHOWN_LEVEL, level)]
    return JudgeResult(
        rows=len(judged),
        alone=bootstrap_bounds(scores, level=SHOWN_LEVEL, seed=seed) if scores else None,
        flips=wilson(sum(one.flipped for one in judged), len(judged), level=SHOWN_LEVEL) if judged else None,
        calibration=calibration,
        corrected=fixed[0],
        lower=None if fixed[1] is None else fixed[1].lower,
    )


def people_by_row(judgements: Sequence[Judgement], key: Mapping[str, Secret]) -> dict[str, float]:
    """Test row -> the mean of people's points for the fine-tuned model."""
    return item_means([(key[one.pair].example, points_of(one, key)) for one in judgements])


def between_people(judgements: Sequence[Judgement], key: Mapping[str, Secret]) -> float | None:
    """The share of pairs of people who prefer the same, over pairs of answers that several judged; None where none was."""
    by_pair: dict[str, list[float]] = defaultdict(list)
    for judgement in judgements:
        by_pair[judgement.pair].append(points_of(judgement, key))
    shares = [fmean(float(a == b) for a, b in combinations(points, 2)) for points in by_pair.values() if len(points) > 1]
    return fmean(shares) if shares else None


def _calibration(rated: Sequence[tuple[float, float]], *, between: float | None, seed: int) -> Calibration:
    if not rated:
        return Calibration(0, None, None, between)
    places = [(_place(people), _place(judge)) for people, judge in rated]
    same = wilson(sum(one == other for one, other in places), len(rated), level=SHOWN_LEVEL)
    first, second = (np.eye(3)[[place[side] for place in places]] for side in (0, 1))
    kappa = beyond_chance("Cohen's kappa", lambda weights: kappas(first, second, weights), len(rated), seed=seed)
    return Calibration(len(rated), same, kappa, between)


def _place(points: float) -> int:
    """Lost, undecided or won, as 0, 1, 2."""
    return int(np.sign(points - 0.5)) + 1
