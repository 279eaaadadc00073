"""Each person who judged: do they follow the side, let more pass than the others, and how far do all agree?"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot
from statistics import fmean

from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.human.judgements import Judgement, points_of
from fine_tune_pipeline.guide.evaluation.human.pairs import Secret
from fine_tune_pipeline.guide.evaluation.human.rubric import ANSWERS, holds
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.statistics import bootstrap_bounds, gain_bounds, mean_bounds, two_sided, wilson
from fine_tune_pipeline.people.agreement import BeyondChance, alpha_of, interval, nominal

SHOWN_LEVEL = two_sided(0.95)
"""Of each bound that is shown: between them the truth lies with 95 %."""

POINTS = (0.0, 0.5, 1.0)

Key = Mapping[str, Secret]


@dataclass(frozen=True)
class Reviewer:
    """One person. None stands for what cannot be known.

    `side_a` is the share of A that they would choose if both systems were alike: away from one half, they follow the side. `passes` is
    the share of what they were asked that they let pass; `lenient` how much more than the others, on pairs that others judged too.
    """

    name: str
    judged: int
    win_rate: Bounds
    side_a: Bounds | None
    passes: Bounds
    lenient: Bounds | None

    @property
    def warnings(self) -> list[str]:
        """What is to be known of this person before their verdicts are believed."""
        return [
            *([f"{self.name} follows the side, not the answer"] if _away_from(self.side_a, 0.5) else []),
            *([f"{self.name} lets {_more(self.lenient)} pass than the others"] if _away_from(self.lenient, 0.0) else []),
        ]


def reviewers(judgements: Sequence[Judgement], key: Key, *, seed: int) -> tuple[Reviewer, ...]:
    """Everybody who judged, by name."""
    by_person: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_person[judgement.by].append(judgement)
    return tuple(_reviewer(name, by_person[name], judgements, key, seed=seed) for name in sorted(by_person))


def over_items(values: Sequence[tuple[str, float]], *, level: float, seed: int) -> Bounds:
    """Mean over test rows of numbers between 0 and 1, several of which may belong to one row; bootstrap over rows.

    Args:
        values: test row and number; at least one.
    """
    return bootstrap_bounds(list(item_means(values).values()), level=level, seed=seed)


def win_rate(points: Sequence[tuple[str, float]], *, level: float, clusters: Mapping[str, str | None]) -> Bounds:
    """Mean of points over test rows, with the bounds of a paired gain: exact where there are few rows, or few groups of them.

    A bootstrap would let a model that is no better pass one half in 10 % of evaluations of 30 rows, asked 5 %.

    Args:
        points: test row and points; at least one.
        clusters: what a test row shares its fate with; None, or not there: it stands alone.
    """
    means = item_means(points)
    shared = [clusters.get(row) or f"row {row}" for row in means]
    found = gain_bounds([mean - 0.5 for mean in means.values()], level=level, clusters=shared, span=0.5)
    return replace(found, estimate=0.5 + found.estimate, lower=0.5 + found.lower, upper=0.5 + found.upper)


def clusters_of(key: Key) -> dict[str, str | None]:
    """Test row -> what it shares its fate with."""
    return {secret.example: secret.cluster for secret in key.values()}


def item_means(values: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Test row -> the mean of its numbers."""
    by_item: dict[str, list[float]] = defaultdict(list)
    for item, value in values:
        by_item[item].append(value)
    return {item: fmean(numbers) for item, numbers in by_item.items()}


def side_a(judgements: Sequence[Judgement], key: Key) -> Bounds | None:
    """The share of A that would be chosen if both systems were alike; None until a side was chosen with each system as A.

    The mean of the share of A where the fine-tuned model is A and where it is B: however much better one system is, and however the sides
    fell among the pairs that were judged, it is one half for who looks at the answers.

    Source: bounds of a sum of two shares by Wilson's (Newcombe, Statistics in Medicine 17 (1998), 873-890, method 10).
    """
    chosen = [judgement for judgement in judgements if judgement.choice in ("A", "B")]
    groups = [[one for one in chosen if (key[one.pair].A == FINE_TUNED) == own] for own in (True, False)]
    if not all(groups):
        return None
    shares = [wilson(sum(one.choice == "A" for one in group), len(group), level=SHOWN_LEVEL) for group in groups]
    mean = fmean(share.estimate for share in shares)
    below = hypot(*(share.estimate - share.lower for share in shares)) / 2
    above = hypot(*(share.upper - share.estimate for share in shares)) / 2
    return Bounds(mean, mean - below, mean + above, SHOWN_LEVEL, "wilson", len(chosen), len(chosen))


def preference_alpha(judgements: Sequence[Judgement], key: Key, *, seed: int) -> BeyondChance | None:
    """Krippendorff's alpha of what people prefer, by the distance between lost, undecided and won; over pairs that several judged."""
    by_pair: dict[str, list[int]] = defaultdict(list)
    for judgement in judgements:
        by_pair[judgement.pair].append(POINTS.index(points_of(judgement, key)))
    return alpha_of(list(by_pair.values()), distances=interval(POINTS), seed=seed)


def rubric_alpha(judgements: Sequence[Judgement], question: str, *, seed: int) -> BeyondChance | None:
    """Krippendorff's alpha of the answers to one question of the rubric."""
    by_pair: dict[str, list[int]] = defaultdict(list)
    for judgement in judgements:
        if question in judgement.answers:
            by_pair[judgement.pair].append(ANSWERS.index(judgement.answers[question]))
    return alpha_of(list(by_pair.values()), distances=nominal(len(ANSWERS)), seed=seed)


def passed(judgement: Judgement) -> float:
    """Share of what was asked of both answers that one lets pass; without a rubric, whether any answer can be used."""
    said = [holds(answer, side) for answer in judgement.answers.values() for side in ("A", "B")]
    return fmean(said) if said else float(judgement.choice != "unusable")


def _reviewer(name: str, own: Sequence[Judgement], all_: Sequence[Judgement], key: Key, *, seed: int) -> Reviewer:
    return Reviewer(
        name=name,
        judged=len(own),
        win_rate=win_rate([(key[one.pair].example, points_of(one, key)) for one in own], level=SHOWN_LEVEL, clusters=clusters_of(key)),
        side_a=side_a(own, key),
        passes=over_items([(key[one.pair].example, passed(one)) for one in own], level=SHOWN_LEVEL, seed=seed),
        lenient=_lenient(own, [one for one in all_ if one.by != name], key),
    )


def _lenient(own: Sequence[Judgement], others: Sequence[Judgement], key: Key) -> Bounds | None:
    by_pair: dict[str, list[float]] = defaultdict(list)
    for judgement in others:
        by_pair[judgement.pair].append(passed(judgement))
    differences = [(one.pair, passed(one) - fmean(by_pair[one.pair])) for one in own if one.pair in by_pair]
    if not differences:
        return None
    # As shares between 0 and 1, whose bounds have a width where all are alike.
    shares = [(1 + difference) / 2 for _, difference in differences]
    found = mean_bounds(shares, level=SHOWN_LEVEL, clusters=[key[pair].example for pair, _ in differences])
    return replace(found, estimate=2 * found.estimate - 1, lower=2 * found.lower - 1, upper=2 * found.upper - 1)


def _away_from(bounds: Bounds | None, value: float) -> bool:
    return bounds is not None and not bounds.lower <= value <= bounds.upper


def _more(bounds: Bounds | None) -> str:
    return "more" if bounds is not None and bounds.estimate > 0 else "less"
