"""Can fine-tuning pay? What systems without training already reach, criterion by criterion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fine_tune_pipeline.guide.objective.criteria import criterion_text
from fine_tune_pipeline.guide.objective.metrics import metric_named
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.bounds import lower_bound, upper_bound
from fine_tune_pipeline.spec.objective import Criterion

CHEAPEST_FIRST = ("majority", "word_classifier", "classifier", "base_zero_shot", "base_few_shot", "base_retrieval")

Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""system -> metric -> one score per row, all in the same order of rows."""


@dataclass(frozen=True)
class Shown:
    """What one system shows of one criterion: its figure and the bound that decides."""

    criterion: Criterion
    figure: float
    bound: float
    met: bool

    def __str__(self) -> str:
        return f"{criterion_text(self.criterion)} ({self.figure:.3f}, bound {self.bound:.3f}: {'met' if self.met else 'not shown'})"


@dataclass(frozen=True)
class Advice:
    """`can_pay` is False when a system without training already meets everything."""

    can_pay: bool
    sentence: str


def advise(scores: Scores, criteria: Sequence[Criterion], *, task: Task, level: float, later: Sequence[str] = ()) -> Advice:
    """Judge every system by every criterion, each by its bound on these rows.

    A criterion that asks to beat a system is left aside for that system itself; one that has nothing else to meet is no substitute.

    Args:
        later: criteria that only step 7 can judge, as text; while there are such, nothing is said to meet everything.
    """
    rest = f" Judged in step 7 only: {'; '.join(later)}." if later else ""
    seen = {name: shown_by(name, scores, criteria, task=task, level=level) for name in CHEAPEST_FIRST if name in scores}
    for name, shown in seen.items():
        if shown and not later and all(item.met for item in shown):
            said = "; ".join(map(str, shown))
            return Advice(False, f"Fine-tuning is not needed: {name} already meets every criterion on validation: {said}.")
    # The first criterion is the one the use case names first; the best system is the one nearest to it.
    best = max(seen, key=lambda name: _nearness(seen[name]))
    said = "; ".join(map(str, seen[best])) or "it is what the model is to beat"
    nearest = f"Fine-tuning can pay: no system without training meets every criterion on validation. The nearest is {best}: {said}."
    return Advice(True, nearest + rest)


def shown_by(system: str, scores: Scores, criteria: Sequence[Criterion], *, task: Task, level: float) -> list[Shown]:
    """What the system shows of the criteria that can be asked of it."""
    rivals = [(item, item.beats or _meant(item.versus, scores)) for item in criteria]
    asked = [item for item, rival in rivals if rival is None or (rival != system and rival in scores)]
    return [_shown(system, scores, item, task=task, level=level) for item in asked]


def _shown(system: str, scores: Scores, criterion: Criterion, *, task: Task, level: float) -> Shown:
    metric = metric_named(criterion.metric, task)
    own = scores[system][criterion.metric]
    if criterion.at_most is not None:
        bound = upper_bound(own, low=metric.low, high=metric.high, level=level)
        return Shown(criterion, fmean(own), bound, bound <= criterion.at_most)
    rival = criterion.beats or _meant(criterion.versus, scores)
    if rival is None:
        assert criterion.at_least is not None
        bound = lower_bound(own, low=metric.low, high=metric.high, level=level)
        return Shown(criterion, fmean(own), bound, bound >= criterion.at_least)
    sign = -1 if metric.better == "lower" else 1
    gains = [sign * (mine - other) for mine, other in zip(own, scores[rival][criterion.metric], strict=True)]
    span = metric.high - metric.low
    bound = lower_bound(gains, low=-span, high=span, level=level)
    wanted = criterion.by if criterion.versus is None else -criterion.margin
    return Shown(criterion, fmean(gains), bound, bound > wanted)


def _meant(versus: str | None, scores: Scores) -> str | None:
    """The system that a guard compares with: `base` is the base model with worked examples, if it was asked with some."""
    if versus != "base":
        return versus
    return "base_few_shot" if "base_few_shot" in scores else "base_zero_shot"


def _nearness(shown: Sequence[Shown]) -> tuple[int, float]:
    """More criteria met is nearer; of as many, the smaller distance of the first criterion's bound from its target."""
    if not shown:
        return (0, float("-inf"))
    first = shown[0]
    target = next(value for value in (first.criterion.at_least, first.criterion.at_most, first.criterion.by) if value is not None)
    return (sum(item.met for item in shown), -abs(target - first.bound))
