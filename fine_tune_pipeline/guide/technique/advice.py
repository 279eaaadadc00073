"""Can fine-tuning pay? What systems without training already reach, criterion by criterion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from statistics import fmean

from fine_tune_pipeline.guide.objective.criteria import criterion_text
from fine_tune_pipeline.guide.objective.metrics import metric_named
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.bounds import lower_bound, upper_bound
from fine_tune_pipeline.guide.technique.recommendation import KINDS, Growth, Missed, Question, Recommendation, Seen, before_training
from fine_tune_pipeline.spec.evaluation import Choice
from fine_tune_pipeline.spec.objective import Criterion

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
class Spent:
    """What a thousand requests to a system took; None where it is not known."""

    seconds: float = 0.0
    cost: float | None = None
    currency: str = ""
    prompt_tokens: float | None = None


def advise(
    scores: Scores,
    criteria: Sequence[Criterion],
    *,
    task: Task,
    level: float,
    later: Sequence[str] = (),
    spent: Mapping[str, Spent] | None = None,
    tuned_as: Choice = "fine_tune",
    growth: Growth | None = None,
) -> Recommendation:
    """Judge every system by every criterion, each by its bound on these rows, and say which is enough (`recommendation`).

    A criterion that asks to beat a system is left aside for that system itself; one that has nothing else to meet is no substitute.

    Args:
        later: criteria that only step 7 can judge, as text; while there are such, nothing is said to meet everything.
        spent: what the systems cost, which decides between those that are enough; by their usual order where it is not known.
        tuned_as: what it will be called to take the fine-tuned model.
        growth: what more rows brought the classifier.
    """
    shown = {name: shown_by(name, scores, criteria, task=task, level=level) for name in KINDS if name in scores}
    seen = [_seen(name, found, scores, (spent or {}).get(name, Spent()), task=task, level=level) for name, found in shown.items()]
    # The first criterion is the one the use case names first; the best system is the one nearest to it. max() keeps the first of equals.
    best = max(shown, key=lambda name: _nearness(shown[name]))
    rows = len(next(iter(next(iter(scores.values())).values())))
    metric = criteria[0].metric if criteria else ""
    return before_training(
        sorted(seen, key=lambda one: one.system != best),
        Question(metric, rows=rows, smallest_gain=0.0, tuned_as=tuned_as, growth=growth),
        shown={name: "; ".join(map(str, found)) or "it is what the model is to beat" for name, found in shown.items()},
        later=later,
        undecided=_undecided(criteria, rows, task=task, level=level),
    )


def _seen(name: str, shown: Sequence[Shown], scores: Scores, spent: Spent, *, task: Task, level: float) -> Seen:
    missed = tuple(Missed(criterion_text(item.criterion), str(item), open=True) for item in shown if not item.met)
    first = next(iter(scores[name]))
    metric, own = metric_named(first, task), scores[name][first]
    bounds = [bound(own, low=metric.low, high=metric.high, level=level) for bound in (lower_bound, upper_bound)]
    return Seen(
        name,
        fmean(own),
        lower=bounds[0],
        upper=bounds[1],
        seconds=spent.seconds,
        cost=spent.cost,
        currency=spent.currency,
        prompt_tokens=spent.prompt_tokens,
        missed=missed if shown else None,
    )


def _undecided(criteria: Sequence[Criterion], rows: int, *, task: Task, level: float) -> str:
    """Why not even answers without a fault would show that a target is met; empty when they would."""
    for item in criteria:
        metric = metric_named(item.metric, task)
        if item.at_least is None or isinf(metric.high):
            continue
        best = lower_bound([metric.high] * rows, low=metric.low, high=metric.high, level=level)
        if best < item.at_least:
            return f"{rows} rows without a fault show {metric.name} of at least {best:.3f}, and {item.at_least:g} is asked"
    return ""


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
