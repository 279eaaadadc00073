"""Can the objective be measured? Every way in which it cannot, each with a proposal, all at once."""

import re
from collections.abc import Iterator, Sequence
from math import ceil, inf

from fine_tune_pipeline.guide.objective.evidence import best_lower_bound, rows_for_target, rows_to_detect, smallest_detectable_gain
from fine_tune_pipeline.guide.objective.metrics import Metric, UnknownMetric, allowed_metrics, metric_named
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.objective import Criterion, Evidence, ObjectiveSpec

MINIMUM_WORDS = 5
"""Of a goal: less is a slogan."""

MINIMUM_CONTENT = 2
"""Words of a goal that say *what*, once adjectives of praise and words that fit any project are taken away."""

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
    """A criterion as people say it, such as `exact_match beats base_few_shot by 0.1`."""
    if criterion.at_least is not None:
        return f"{criterion.metric} at least {criterion.at_least:g}"
    if criterion.at_most is not None:
        return f"{criterion.metric} at most {criterion.at_most:g}"
    return f"{criterion.metric} beats {criterion.beats}" + (f" by {criterion.by:g}" if criterion.by else "")


def objective_problems(objective: ObjectiveSpec, task: Task, *, held_out_rows: int | None) -> list[str]:
    """Why the objective cannot be measured, as sentences that hold a proposal; empty if it can.

    Args:
        held_out_rows: size of the test set; None while it is not known, then what depends on it is not looked at.
    """
    problems = [*_goal_problems(objective.goal), *_success_problems(objective.success, task)]
    for part, criteria in (("success", objective.success), ("guards", objective.guards)):
        for place, criterion in enumerate(criteria):
            found = _criterion_problems(criterion, task, evidence=objective.evidence, held_out_rows=held_out_rows)
            problems += [f"objective.{part}[{place}] ({criterion_text(criterion)}): {said}" for said in found]
    return problems


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


def _criterion_problems(criterion: Criterion, task: Task, *, evidence: Evidence, held_out_rows: int | None) -> Iterator[str]:
    try:
        metric = metric_named(criterion.metric, task)
    except UnknownMetric as error:
        yield str(error)
        return
    yield from _direction_problems(criterion, metric, task)
    yield from _range_problems(criterion, metric)
    if held_out_rows is not None:
        yield from _evidence_problems(criterion, metric, evidence=evidence, rows=held_out_rows)


def _direction_problems(criterion: Criterion, metric: Metric, task: Task) -> Iterator[str]:
    if criterion.at_least is not None and metric.better == "lower":
        yield f"lower {metric.name} is better ({metric.about}); write at_most"
    if criterion.at_most is not None and metric.better == "higher":
        yield f"higher {metric.name} is better ({metric.about}); write at_least"
    if criterion.beats is not None and metric.better == "neither":
        yield f"neither more nor less {metric.name} is better by itself; bound it with at_least and at_most"
    if criterion.beats == "classifier" and not task.classes:
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


def _evidence_problems(criterion: Criterion, metric: Metric, *, evidence: Evidence, rows: int) -> Iterator[str]:
    best = best_lower_bound(rows, level=evidence.level)
    if criterion.at_least is not None and metric.high == 1 and best < criterion.at_least <= 1:
        yield _out_of_reach("at least", criterion.at_least, shown=best, demand=criterion.at_least, rows=rows, level=evidence.level)
    if criterion.at_most is not None and metric.high == 1 and metric.better == "lower" and 0 <= criterion.at_most < 1 - best:
        yield _out_of_reach("at most", criterion.at_most, shown=1 - best, demand=1 - criterion.at_most, rows=rows, level=evidence.level)
    detectable = smallest_detectable_gain(rows, level=evidence.level, power=evidence.power).gain
    if 0 < criterion.by < detectable:
        wanted = rows_to_detect(criterion.by, level=evidence.level, power=evidence.power)
        yield (
            f"a gain of {criterion.by:g} is below {detectable:.3f}, the smallest that {rows} held-out rows can show; set `by` to "
            f"{ceil(detectable * 100) / 100:g} or more, bring {wanted} held-out rows, or leave `by` out to ask for any gain at all"
        )


def _out_of_reach(words: str, target: float, *, shown: float, demand: float, rows: int, level: float) -> str:
    rows_wanted = f"bring {rows_for_target(demand, level=level)} held-out rows or " if demand < 1 else ""
    limit = "highest" if words == "at least" else "lowest"
    return (
        f"with {rows} held-out rows {shown:.3f} is the {limit} figure that even a faultless model can be shown to reach at level "
        f"{level:g}, so {words} {target:g} can never be met; {rows_wanted}choose a target that can"
    )


def _known(criterion: Criterion, task: Task) -> Metric | None:
    try:
        return metric_named(criterion.metric, task)
    except UnknownMetric:
        return None
