"""Can the objective be measured? Every way in which it cannot, each with a proposal, all at once."""

import re
from collections.abc import Collection, Iterator, Sequence
from math import ceil, inf

from fine_tune_pipeline.guide.objective.conflicts import conflicts
from fine_tune_pipeline.guide.objective.evidence import (
    best_lower_bound,
    look_level,
    rows_for_target,
    rows_to_detect,
    smallest_detectable_gain,
)
from fine_tune_pipeline.guide.objective.metrics import METRICS, Metric, UnknownMetric, allowed_metrics, metric_named
from fine_tune_pipeline.guide.objective.model_metrics import model_problems
from fine_tune_pipeline.guide.objective.own_metrics import MissingMetric
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.objective import Criterion, Evidence, ObjectiveSpec

MINIMUM_WORDS = 5
"""Of a goal: less is a slogan."""

MINIMUM_CONTENT = 2
"""Words of a goal that say *what*, once adjectives of praise and words that fit any project are taken away."""

RARE_DISAGREEMENT = 0.1
"""Share of rows on which two models of the same quality differ at least; with fewer rows than that asks for, no margin can be shown."""

EMPTY_WORDS = frozenset(
    """
    a an the and or of to for in on at by with so that it its is are be our my your we i you us this these all any more most very much as
    than make makes made get gets give have has do does improve improves improved improving increase boost enhance optimise optimize better
    best good great nice excellent perfect amazing high higher quality smart smarter fast faster useful helpful accurate correct model
    models llm ai system answers answer results result output outputs performance work works please want need should can will
    """.split()  # noqa: SIM905 - a hundred quoted words would be harder to read
)
"""Words that say nothing about the task."""

# Scripts written without gaps count by character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]|[^\W\d_]+")


def criterion_text(criterion: Criterion) -> str:
    """A criterion as people say it, such as `exact_match beats base_few_shot by 0.1 where channel email`."""
    where = f" where {criterion.slice}" if criterion.slice is not None else ""
    return f"{criterion.metric} {_demand(criterion)}{where}"


def objective_problems(
    objective: ObjectiveSpec, task: Task, *, held_out_rows: int | None, columns: Collection[str] | None = None, priced: bool = True
) -> list[str]:
    """Why the objective cannot be measured, as sentences that hold a proposal; empty if it can.

    Args:
        held_out_rows: size of the test set; None while it is not known, then what depends on it is not looked at.
        columns: metadata that test rows can have; None if that is not known.
        priced: whether anything says what answers cost.
    """
    problems = [*_goal_problems(objective.goal), *_own_problems(objective, task), *_success_problems(objective.success, task)]
    for part, criteria in (("success", objective.success), ("guards", objective.guards)):
        for place, criterion in enumerate(criteria):
            rows = held_out_rows if criterion.slice is None else None
            found = [
                *_criterion_problems(criterion, task, evidence=objective.evidence, held_out_rows=rows),
                *_slice_problems(criterion, columns),
                *model_problems(criterion, own=[own.declared.name for own in task.own], part=part),
            ]
            problems += [f"objective.{part}[{place}] ({criterion_text(criterion)}): {said}" for said in found]
    problems += conflicts(objective, text=criterion_text)
    if objective.limits.cost_per_1000 is not None and not priced:
        problems.append(
            "objective.limits.cost_per_1000: nothing says what answers cost; name what an hour costs in environment.prices, or the "
            "provider's prices in base_model.candidates"
        )
    return problems


def criterion_problems(criterion: Criterion, task: Task, *, evidence: Evidence, rows: int) -> list[str]:
    """What is wrong with one criterion because so many test rows are all that it is judged on."""
    return list(_evidence_problems(criterion, metric_named(criterion.metric, task), evidence=evidence, rows=rows))


def _demand(criterion: Criterion) -> str:
    if criterion.at_least is not None:
        return f"at least {criterion.at_least:g}"
    if criterion.at_most is not None:
        return f"at most {criterion.at_most:g}"
    if criterion.versus is not None:
        return f"not worse than {criterion.versus}" + (f" by more than {criterion.margin:g}" if criterion.margin else "")
    return f"beats {criterion.beats}" + (f" by {criterion.by:g}" if criterion.by else "")


def _own_problems(objective: ObjectiveSpec, task: Task) -> Iterator[str]:
    """Metrics of the use case that cannot be loaded, or have the name of a built-in one."""
    for place, own in enumerate(task.own):
        if own.declared.name in METRICS:
            yield (
                f"objective.metrics[{place}]: {own.declared.name} is a metric of its own already ({METRICS[own.declared.name].about}); "
                "give yours another name"
            )
        try:
            own.function  # noqa: B018 - loading it is the check
        except MissingMetric as error:
            yield str(error)


def _goal_problems(goal: str) -> Iterator[str]:
    words = _WORD.findall(goal.casefold())
    proposal = "say what goes in, what must come out, and what it is for"
    if len(words) < MINIMUM_WORDS:
        yield f"objective.goal: {goal!r} has {len(words)} words, want at least {MINIMUM_WORDS}; {proposal}"
    elif sum(word not in EMPTY_WORDS for word in words) < MINIMUM_CONTENT:
        yield f"objective.goal: {goal!r} says how good but not what; {proposal}"


def _success_problems(success: Sequence[Criterion], task: Task) -> Iterator[str]:
    metrics = [metric for criterion in success if (metric := _known(criterion, task)) is not None]
    if len(metrics) == len(success) and all(metric.validity for metric in metrics):
        yield (
            f"objective.success: {', '.join(metric.name for metric in metrics)} look at the form of an answer only, and a wrong answer can "
            f"have that; move them to guards and add a criterion on {allowed_metrics(task)[0]}"
        )
    if all(criterion.versus is not None for criterion in success):
        yield (
            "objective.success: it asks only not to be worse than something, which the base model meets as it is; move that to guards and "
            f"add a criterion on {allowed_metrics(task)[0]}, such as at_least or beats"
        )


def _criterion_problems(criterion: Criterion, task: Task, *, evidence: Evidence, held_out_rows: int | None) -> Iterator[str]:
    try:
        metric = metric_named(criterion.metric, task)
    except UnknownMetric as error:
        yield str(error)
        return
    yield from _direction_problems(criterion, metric, task)
    yield from _range_problems(criterion, metric)
    if held_out_rows is not None and not metric.of_model:
        yield from _evidence_problems(criterion, metric, evidence=evidence, rows=held_out_rows)


def _direction_problems(criterion: Criterion, metric: Metric, task: Task) -> Iterator[str]:
    if criterion.at_least is not None and metric.better == "lower":
        yield f"lower {metric.name} is better ({metric.about}); write at_most"
    if criterion.at_most is not None and metric.better == "higher":
        yield f"higher {metric.name} is better ({metric.about}); write at_least"
    if (criterion.beats is not None or criterion.versus is not None) and metric.better == "neither":
        yield f"neither more nor less {metric.name} is better by itself; bound it with at_least and at_most"
    if {"classifier", "word_classifier"} & {criterion.beats, criterion.versus} and not task.classes:
        yield f"a {task.type} task without a closed list of values has no classifier; compare with base_few_shot"


def _range_problems(criterion: Criterion, metric: Metric) -> Iterator[str]:
    span = f"{metric.low:g} and above" if metric.high == inf else f"{metric.low:g} to {metric.high:g}"
    for name, target in (("at_least", criterion.at_least), ("at_most", criterion.at_most)):
        if target is None:
            continue
        if not metric.low <= target <= metric.high:
            hint = f"; write {target / 100:g} for {target:g} %" if metric.high == 1 and 1 < target <= 100 else ""
            yield f"{metric.name} lies in {span}, got {name} {target:g}{hint or '; choose a target inside'}"
        elif target == (metric.low if name == "at_least" else metric.high):
            yield f"any model meets {name} {target:g}, since {metric.name} lies in {span}; choose a target that can be missed"
    if criterion.by >= metric.high - metric.low:
        yield f"no system can lead by {criterion.by:g}, since {metric.name} lies in {span}; choose a smaller `by`"
    if criterion.margin >= metric.high - metric.low:
        yield f"any model meets a margin of {criterion.margin:g}, since {metric.name} lies in {span}; choose a smaller one"


def _slice_problems(criterion: Criterion, columns: Collection[str] | None) -> Iterator[str]:
    if criterion.slice is None or columns is None:
        return
    known = ", ".join(sorted(columns)) or "none"
    for column in sorted(set(criterion.slice.where) - set(columns)):
        yield f"slice: no source of test rows keeps the column {column!r} (kept: {known}); name it under `metadata` of the source"


def _evidence_problems(criterion: Criterion, metric: Metric, *, evidence: Evidence, rows: int) -> Iterator[str]:
    # The first look at the test rows has the lowest level of all: what cannot be met there never can. What gain can be shown rests on a
    # guess of how often systems differ, so `by` and `margin` are only held against the level as it was asked.
    first = look_level(1, level=evidence.level)
    best = best_lower_bound(rows, level=first)
    if criterion.at_least is not None and _is_share(metric) and best < criterion.at_least <= 1:
        yield _out_of_reach("at least", criterion.at_least, shown=best, demand=criterion.at_least, rows=rows, level=first)
    if criterion.at_most is not None and _is_share(metric) and metric.better == "lower" and 0 <= criterion.at_most < 1 - best:
        yield _out_of_reach("at most", criterion.at_most, shown=1 - best, demand=1 - criterion.at_most, rows=rows, level=first)
    yield from _margin_problems(criterion, metric, evidence=evidence, rows=rows)
    detectable = smallest_detectable_gain(rows, level=evidence.level, power=evidence.power).gain
    if _is_share(metric) and 0 < criterion.by < detectable:
        wanted = rows_to_detect(criterion.by, level=evidence.level, power=evidence.power)
        yield (
            f"a gain of {criterion.by:g} is below {detectable:.3f}, the smallest that {rows} held-out rows can show; set `by` to "
            f"{ceil(detectable * 100) / 100:g} or more, bring {wanted} held-out rows, or leave `by` out to ask for any gain at all"
        )


def _margin_problems(criterion: Criterion, metric: Metric, *, evidence: Evidence, rows: int) -> Iterator[str]:
    """A model that is as good as the other is shown to be only if the margin is wider than chance."""
    shown = smallest_detectable_gain(rows, level=evidence.level, power=evidence.power, disagreement=RARE_DISAGREEMENT).gain
    if criterion.versus is not None and metric.binary and criterion.margin < shown:
        wanted = rows_to_detect(max(criterion.margin, 0.001), level=evidence.level, power=evidence.power, disagreement=RARE_DISAGREEMENT)
        more = f", bring {wanted} held-out rows" if criterion.margin else ""
        yield (
            f"with {rows} held-out rows a model that is just as good cannot be shown to be within {criterion.margin:g}; set `margin` to "
            f"{ceil(shown * 100) / 100:g} or more{more}, or guard with a metric that is not 0 or 1"
        )


def _out_of_reach(words: str, target: float, *, shown: float, demand: float, rows: int, level: float) -> str:
    rows_wanted = f"bring {rows_for_target(demand, level=level)} held-out rows or " if demand < 1 else ""
    limit = "highest" if words == "at least" else "lowest"
    return (
        f"with {rows} held-out rows {shown:.3f} is the {limit} figure that even a faultless model can be shown to reach at level "
        f"{level:g}, so {words} {target:g} can never be met; {rows_wanted}choose a target that can"
    )


def _is_share(metric: Metric) -> bool:
    """Whether scores lie between 0 and 1, for which the bounds are made."""
    return (metric.low, metric.high) == (0, 1)


def _known(criterion: Criterion, task: Task) -> Metric | None:
    try:
        return metric_named(criterion.metric, task)
    except UnknownMetric:
        return None
