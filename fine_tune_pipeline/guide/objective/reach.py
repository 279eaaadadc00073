"""What the test rows themselves can show of the objective: known once the dataset is made, and before anything is trained."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.looks import Look
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.guide.objective.clusters import cluster_names, cluster_sizes
from fine_tune_pipeline.guide.objective.criteria import criterion_problems, criterion_text
from fine_tune_pipeline.guide.objective.evidence import LOOKS, Detectable, at_look, design_effect, smallest_detectable_gain
from fine_tune_pipeline.guide.objective.figures import figure
from fine_tune_pipeline.guide.objective.measures.item import Item
from fine_tune_pipeline.guide.objective.metrics import Metric, metric_named
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.objective import Criterion, ObjectiveSpec

REACHABLE = "objective_reachable"
SHOWS_GAIN = "test_set_shows_gain"

FRESH = "their level is spent, so the verdict on a new model would be `cannot tell`; bring held-out rows that nobody has evaluated on"

CHECKS = {
    REACHABLE: "The test rows can show what the objective asks, and it asks more than the most frequent answer gives.",
    SHOWS_GAIN: "The test rows are enough to show the smallest gain that matters.",
}


@dataclass(frozen=True)
class Judged:
    """One criterion, and how many test rows it is judged on."""

    place: str
    criterion: Criterion
    metric: Metric
    rows: Sequence[Example]


def shown_by_test_rows(objective: ObjectiveSpec, task: Task, test: Sequence[Example], *, look: Look) -> Built:
    """Metadata and checks for the dataset: what gain its test rows show, and criteria that they make impossible or trivial.

    Whether a criterion can be met is asked at the first look: an evaluation that stands already is not refused. The gain that can be shown
    is that of the next one.

    Args:
        test: may be empty; then nothing can be said, and step 7 says that there is no test set.
        look: the next one at these rows.
    """
    if not test:
        said = "there is no test row"
        return Built(checks=[Check(name=name, passed=True, blocking=name == REACHABLE, description=said) for name in CHECKS])
    evidence = at_look(objective, look.number).evidence
    judged = _judged(objective, task, test)
    problems = [
        *_cluster_problems(objective, test),
        *_preference_problems(task, test),
        *(said for one in judged for said in _problems(one, objective, task, test)),
    ]
    sizes = cluster_sizes(cluster_names(test, cluster_by=evidence.cluster_by))
    detectable = smallest_detectable_gain(len(test), level=evidence.level, power=evidence.power, design_effect=design_effect(sizes))
    metadata: dict[str, Any] = {
        "smallest_detectable_gain": round(detectable.gain, 4),
        "smallest_gain_wanted": evidence.smallest_gain,
        "next_look": look_text(look, evidence.level),
        "criteria_rows": [{"criterion": criterion_text(one.criterion), "test rows": len(one.rows)} for one in judged],
    }
    said = "\n".join(f"- {problem}" for problem in problems) or f"{len(judged)} criteria can be judged on {len(test)} test rows"
    reachable = Check(name=REACHABLE, passed=not problems, description=said, metadata={"problems": len(problems)})
    return Built(metadata=metadata, checks=[reachable, gain_check(detectable, wanted=evidence.smallest_gain, look=look)])


def look_text(look: Look, level: float) -> str:
    """Which look at the test rows comes next, and what it may spend; what to do when nothing is left."""
    if look.number <= LOOKS:
        return f"look {look.number} of {LOOKS} at these test rows, at level {level:g}"
    return f"{look.seen_before} of {look.items} test rows have been looked at {look.number - 1} times: {FRESH}"


def gain_check(detectable: Detectable, *, wanted: float, look: Look | None = None) -> Check:
    """Whether a test set of this size shows the smallest gain that matters, and may be looked at again; it only warns."""
    if look is not None and look.number > LOOKS:
        return Check(name=SHOWS_GAIN, passed=False, blocking=False, description=look_text(look, detectable.level))
    said = (
        f"{detectable.rows} held-out rows show a true gain of {detectable.gain:.3f} with {detectable.power:.0%} power at level "
        f"{detectable.level:g} (if systems differ on {detectable.disagreement:.0%} of the rows); evidence.smallest_gain is {wanted:g}"
    )
    enough = detectable.gain <= wanted
    advice = "" if enough else "; bring more held-out rows, or expect the verdict `cannot tell` for a gain of that size"
    return Check(
        name=SHOWS_GAIN, passed=enough, blocking=False, description=said + advice, metadata={"smallest_detectable_gain": detectable.gain}
    )


def _judged(objective: ObjectiveSpec, task: Task, test: Sequence[Example]) -> list[Judged]:
    found = []
    for part, criteria in (("success", objective.success), ("guards", objective.guards)):
        for place, criterion in enumerate(criteria):
            metric = metric_named(criterion.metric, task)
            if metric.of_model:
                continue
            rows = [row for row in test if criterion.slice is None or criterion.slice.holds(row.metadata)]
            rows = [row for row in rows if metric.counted(row)]
            found.append(Judged(f"objective.{part}[{place}]", criterion, metric, rows))
    return found


def _problems(one: Judged, objective: ObjectiveSpec, task: Task, test: Sequence[Example]) -> Iterator[str]:
    begin = f"{one.place} ({criterion_text(one.criterion)}): "
    least = objective.evidence.minimum_slice
    if len(one.rows) < len(test) and len(one.rows) < least:
        seen = f"{len(one.rows)} of {len(test)} test rows are judged"
        yield f"{begin}{seen}, want at least {least} (evidence.minimum_slice); {_instead(one, test)}"
        return
    found = criterion_problems(one.criterion, task, evidence=objective.evidence, rows=len(one.rows))
    yield from (begin + said for said in found)
    if one.place.startswith("objective.success") and not found:
        yield from (begin + said for said in _majority_problems(one, task))


def _instead(one: Judged, test: Sequence[Example]) -> str:
    """What to do about too few rows: the values that there are, if none fits."""
    if one.rows or one.criterion.slice is None:
        return "bring more of them, lower evidence.minimum_slice, or ask for the whole test set"
    column = next(iter(one.criterion.slice.where))
    values = sorted({row.metadata[column] for row in test if column in row.metadata})
    return (
        f"its rows have {column} {some(values)}"
        if values
        else f"no test row has the column {column}; name it under `metadata` of the source"
    )


def _majority_problems(one: Judged, task: Task) -> Iterator[str]:
    """A target that one answer, always the same, meets needs no model."""
    criterion, metric = one.criterion, one.metric
    if metric.validity or metric.better == "neither" or set(metric.needs) - {"row"}:
        return
    answer = Counter(row.completion for row in one.rows).most_common(1)[0][0]
    reached = figure(metric, [Item(answer, row.completion, task, row) for row in one.rows])
    assert reached is not None
    least, most = criterion.at_least, criterion.at_most
    if (least is not None and reached >= least) or (most is not None and reached <= most):
        yield (
            f"always answering {answer[:60]!r}, the most frequent answer, reaches {reached:.3f} already, so it needs no model; choose a "
            "target beyond that, or a metric in which rare answers count, such as macro_f1"
        )
    elif criterion.beats == "majority" and reached + criterion.by > metric.high and metric.better == "higher":
        yield f"the most frequent answer reaches {reached:.3f} already, so nothing can lead it by {criterion.by:g}; choose a smaller `by`"


def _preference_problems(task: Task, test: Sequence[Example]) -> Iterator[str]:
    if task.type == "preference" and all(row.rejected is None for row in test):
        yield (
            "objective.task: no test row has a rejected answer to compare with; give dataset.held_out sources with `layout: preference`, "
            "or take the task `generation`"
        )


def _cluster_problems(objective: ObjectiveSpec, test: Sequence[Example]) -> Iterator[str]:
    column = objective.evidence.cluster_by
    if column is not None and not any(column in row.metadata for row in test):
        kept = some(sorted({name for row in test for name in row.metadata}))
        yield (f"objective.evidence.cluster_by: no test row has {column!r} (there are: {kept}); name it in the source's `metadata`")
