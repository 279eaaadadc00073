"""The objective as it is kept and shown: what is wanted, how it will be measured, and what the test set can show of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.guide.objective.criteria import criterion_text, objective_problems
from fine_tune_pipeline.guide.objective.evidence import Detectable, smallest_detectable_gain
from fine_tune_pipeline.guide.objective.held_out import HeldOut, held_out_rows
from fine_tune_pipeline.guide.objective.metrics import UnknownMetric, metric_named
from fine_tune_pipeline.guide.objective.task import Task, read_task
from fine_tune_pipeline.spec.objective import Criterion, Limits, ObjectiveSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

FILE = "objective.json"


@dataclass(frozen=True)
class Statement:
    """The objective, resolved. `problems` is empty when it can be measured."""

    objective: ObjectiveSpec
    task: Task
    instruction: str
    held_out: HeldOut
    detectable: Detectable | None
    problems: tuple[str, ...]


def state(spec: UseCaseSpec) -> Statement:
    """Resolve the objective of a use case.

    Raises:
        UnreadableTask, UnusableLabels, UnusableSchema: the task's own file is wrong, so nothing else can be looked at.
    """
    objective, task, held_out = spec.objective, read_task(spec), held_out_rows(spec)
    evidence = objective.evidence
    detectable = smallest_detectable_gain(held_out.rows, level=evidence.level, power=evidence.power) if held_out.rows else None
    problems = [*held_out.missing, *objective_problems(objective, task, held_out_rows=held_out.rows)]
    if held_out.rows == 0:
        problems.append("dataset.held_out: the held-out files have no row; bring some, or leave `held_out` away to split a test set off")
    instruction = spec.dataset.format.instruction or task.instruction(objective.goal)
    return Statement(objective, task, instruction, held_out, detectable, tuple(problems))


def build_objective(statement: Statement, folder: Path) -> Built:
    """Write `objective.json` into `folder` and say whether the criteria can be measured."""
    (folder / FILE).write_text(json.dumps(_document(statement), ensure_ascii=False, indent=2), encoding="utf-8")
    metadata = {
        "goal": statement.objective.goal,
        "task": statement.task.type,
        "classes": len(statement.task.classes),
        "criteria": criteria_table(statement.objective, statement.task),
        "held_out_rows": statement.held_out.rows if statement.held_out.rows is not None else f"not known yet: {statement.held_out.note}",
        "smallest_detectable_gain": round(statement.detectable.gain, 4) if statement.detectable else "not known yet",
        "smallest_gain_wanted": statement.objective.evidence.smallest_gain,
    }
    return Built(
        metadata=metadata,
        markdown={"instruction": f"```text\n{statement.instruction}\n```"},
        checks=[_measurable(statement), _evidence(statement)],
    )


def criteria_table(objective: ObjectiveSpec, task: Task) -> list[dict[str, Any]]:
    """Every criterion and limit as a row: what, how it is judged, and as what it counts."""
    rows = [_row("success", criterion, task) for criterion in objective.success]
    rows += [_row("guard", criterion, task) for criterion in objective.guards]
    return [*rows, *_limit_rows(objective.limits)]


def _limit_rows(limits: Limits) -> list[dict[str, Any]]:
    rows = []
    if limits.p95_latency_seconds is not None:
        said = f"95 % of answers within {limits.p95_latency_seconds:g} s"
        rows.append({"kind": "limit", "criterion": said, "about": "time of one answer", "judged by": "the endpoint"})
    if limits.memory_gib is not None:
        said = f"at most {limits.memory_gib:g} GiB"
        rows.append({"kind": "limit", "criterion": said, "about": "peak memory while answering", "judged by": "the evaluation"})
    return rows


def _row(kind: str, criterion: Criterion, task: Task) -> dict[str, Any]:
    try:
        about = metric_named(criterion.metric, task).about
    except UnknownMetric:
        about = "unknown metric"
    bound = "its upper bound" if criterion.at_most is not None else "its lower bound"
    judged = "the lower bound of the paired difference" if criterion.beats is not None else bound
    return {"kind": kind, "criterion": criterion_text(criterion), "about": about, "judged by": judged}


def _measurable(statement: Statement) -> Check:
    problems = statement.problems
    said = "every criterion can be measured" if not problems else f"{len(problems)} to mend:\n" + _list(problems)
    return Check(name="criteria_measurable", passed=not problems, description=said, metadata={"problems": len(problems)})


def _evidence(statement: Statement) -> Check:
    detectable, wanted = statement.detectable, statement.objective.evidence.smallest_gain
    name = "test_set_shows_gain"
    if detectable is None:
        return Check(name=name, passed=True, blocking=False, description=f"not known yet: {statement.held_out.note}")
    said = (
        f"{detectable.rows} held-out rows show a true gain of {detectable.gain:.3f} with {detectable.power:.0%} power at level "
        f"{detectable.level:g} (if systems differ on {detectable.disagreement:.0%} of the rows); evidence.smallest_gain is {wanted:g}"
    )
    enough = detectable.gain <= wanted
    advice = "" if enough else "; bring more held-out rows, or expect the verdict `cannot tell` for a gain of that size"
    metadata = {"smallest_detectable_gain": detectable.gain}
    return Check(name=name, passed=enough, blocking=False, description=said + advice, metadata=metadata)


def _document(statement: Statement) -> dict[str, Any]:
    task = statement.task
    return {
        **statement.objective.model_dump(mode="json", by_alias=True, exclude={"task"}),
        "task": {"type": task.type, "labels": task.labels, "schema": task.schema, "classes": task.classes},
        "instruction": statement.instruction,
        "criteria": criteria_table(statement.objective, task),
        "held_out": {"rows": statement.held_out.rows, "note": statement.held_out.note},
        "detectable": None if statement.detectable is None else asdict(statement.detectable),
        "problems": list(statement.problems),
    }


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
