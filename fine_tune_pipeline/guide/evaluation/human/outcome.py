"""What all judgements together say: the win rate, the rubric, how far they can be trusted, and what is still missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.human.judgements import Judgement, person, points_of
from fine_tune_pipeline.guide.evaluation.human.pairs import HandOut, Secret
from fine_tune_pipeline.guide.evaluation.human.reviewers import (
    SHOWN_LEVEL,
    Reviewer,
    clusters_of,
    item_means,
    over_items,
    preference_alpha,
    reviewers,
    rubric_alpha,
    side_a,
    win_rate,
)
from fine_tune_pipeline.guide.evaluation.human.rubric import holds
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.statistics import gain_bounds, wilson
from fine_tune_pipeline.people.agreement import WEAK, BeyondChance


@dataclass(frozen=True)
class Rubric:
    """One question: of which share of the rows it holds for each system, and the difference; over the rows on which it was answered."""

    question: str
    rows: int
    fine_tuned: Bounds
    other: Bounds
    gain: Bounds
    alpha: BeyondChance | None


@dataclass(frozen=True)
class Result:
    """What the judgements say; None stands for what cannot be known yet.

    `win_rate` is of the fine-tuned model over `rows` test rows, ties and unusable pairs as one half; `lower` its one-sided bound. `ties`
    and `unusable` are shares of the same rows. `side_a` is the share of A if both systems were alike. `consistent` is the share of the
    repeated pairs that the same person judged alike. `unfinished` says how many pairs each of the named reviewers has not judged.
    """

    answered: int
    pairs: int
    rows: int
    people: int
    win_rate: Bounds | None
    lower: float | None
    ties: Bounds | None
    unusable: Bounds | None
    side_a: Bounds | None
    consistent: Bounds | None
    alpha: BeyondChance | None
    rubric: tuple[Rubric, ...]
    reviewers: tuple[Reviewer, ...]
    unfinished: dict[str, int]

    @property
    def waiting(self) -> bool:
        return self.answered < self.pairs or any(self.unfinished.values())

    @property
    def partial(self) -> bool:
        """Some have spoken, and others are waited for."""
        return self.waiting and self.answered > 0

    @property
    def state(self) -> str:
        """In words; who is waited for is named."""
        if not self.waiting:
            return "all pairs are judged"
        missing = ", ".join(f"{name} {count}" for name, count in self.unfinished.items() if count)
        return f"waiting for people ({self.answered} of {self.pairs}{f'; missing of {missing}' if missing else ''})"

    @property
    def warnings(self) -> list[str]:
        """What is to be known before the win rate is believed."""
        follows = self.side_a is not None and not self.side_a.lower <= 0.5 <= self.side_a.upper
        weak = self.alpha is not None and self.alpha.value < WEAK
        return [
            *(["partial: the numbers are of those pairs that were judged so far"] if self.partial else []),
            *(["people follow the side, not the answer"] if follows else []),
            *(
                [f"people agree little (alpha {self.alpha.value:.2f}, below {WEAK:g}): agree on what is better first"]
                if weak and self.alpha
                else []
            ),
            *(warning for one in self.reviewers for warning in one.warnings if len(self.reviewers) > 1),
        ]


def result(
    judgements: Sequence[Judgement],
    handed_out: HandOut,
    *,
    level: float,
    seed: int,
    questions: Sequence[str] = (),
    named: Sequence[str] = (),
) -> Result:
    """Win rate over test rows, and how far the judgements can be trusted.

    Args:
        level: of the one-sided lower bound that a demand is judged by.
        seed: of the bootstraps of everything else.
        questions: names of those of the rubric.
        named: reviewers each of whom is waited for.
    """
    key = handed_out.key
    judged = {name: {one.pair for one in judgements if one.by == person(name)} for name in named}

    def share(value: Callable[[Judgement], float]) -> Bounds | None:
        return over_items([(key[one.pair].example, value(one)) for one in judgements], level=SHOWN_LEVEL, seed=seed) if judgements else None

    points = [(key[one.pair].example, points_of(one, key)) for one in judgements]
    return Result(
        answered=len({judgement.pair for judgement in judgements}),
        pairs=len(handed_out.pairs),
        rows=len({key[judgement.pair].example for judgement in judgements}),
        people=len({judgement.by for judgement in judgements}),
        win_rate=win_rate(points, level=SHOWN_LEVEL, clusters=clusters_of(key)) if points else None,
        lower=win_rate(points, level=level, clusters=clusters_of(key)).lower if points else None,
        ties=share(lambda one: float(one.choice == "equal")),
        unusable=share(lambda one: float(one.choice == "unusable")),
        side_a=side_a(judgements, key),
        consistent=_consistent(judgements, handed_out),
        alpha=preference_alpha(judgements, key, seed=seed),
        rubric=tuple(found for name in questions if (found := _rubric(name, judgements, handed_out, seed=seed)) is not None),
        reviewers=reviewers(judgements, key, seed=seed),
        unfinished={name: len(handed_out.pairs) - len(pairs) for name, pairs in judged.items()},
    )


def _rubric(question: str, judgements: Sequence[Judgement], handed_out: HandOut, *, seed: int) -> Rubric | None:
    key = handed_out.key
    answered = [one for one in judgements if question in one.answers]
    if not answered:
        return None
    own = [(key[one.pair].example, float(holds(one.answers[question], _side(key[one.pair])))) for one in answered]
    other = [(key[one.pair].example, float(holds(one.answers[question], "B" if _side(key[one.pair]) == "A" else "A"))) for one in answered]
    by_row, against = item_means(own), item_means(other)
    return Rubric(
        question=question,
        rows=len(by_row),
        fine_tuned=over_items(own, level=SHOWN_LEVEL, seed=seed),
        other=over_items(other, level=SHOWN_LEVEL, seed=seed),
        gain=gain_bounds([by_row[row] - against[row] for row in by_row], level=SHOWN_LEVEL),
        alpha=rubric_alpha(answered, question, seed=seed),
    )


def _side(secret: Secret) -> str:
    return "A" if secret.A == FINE_TUNED else "B"


def _consistent(judgements: Sequence[Judgement], handed_out: HandOut) -> Bounds | None:
    key = handed_out.key
    points = {(one.pair, one.by): points_of(one, key) for one in judgements}
    same = [
        points[first, by] == score
        for (pair, by), score in points.items()
        if (first := key[pair].repeats) is not None and (first, by) in points
    ]
    return wilson(sum(same), len(same), level=SHOWN_LEVEL) if same else None
