"""The objective as it is kept and shown: what is wanted, how it will be measured, and what the test set can show of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.guide.objective.criteria import criterion_text, objective_problems
from fine_tune_pipeline.guide.objective.evidence import Detectable, at_look, smallest_detectable_gain
from fine_tune_pipeline.guide.objective.held_out import HeldOut, held_out_rows
from fine_tune_pipeline.guide.objective.metrics import UnknownMetric, metric_named
from fine_tune_pipeline.guide.objective.model_metrics import unmeasured_problems
from fine_tune_pipeline.guide.objective.own_metrics import scored_with
from fine_tune_pipeline.guide.objective.reach import SHOWS_GAIN, gain_check
from fine_tune_pipeline.guide.objective.task import Task, read_task
from fine_tune_pipeline.spec.hosted import ApiModel
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
    # `dataset` knows how often its test rows have been looked at; here it is the first time.
    evidence = at_look(objective, 1).evidence
    detectable = smallest_detectable_gain(held_out.rows, level=evidence.level, power=evidence.power) if held_out.rows else None
    found = objective_problems(objective, task, held_out_rows=held_out.rows, columns=_columns(spec), priced=_priced(spec))
    problems = [*held_out.missing, *found, *unmeasured_problems(spec)]
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
    voice = statement.objective.voice
    if voice is not None:
        metadata["style_rules"] = [rule.name for rule in voice.rules]
        metadata["rubric"] = [item.model_dump() for item in voice.rubric]
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
    if limits.cost_per_1000 is not None:
        said = f"1,000 answers cost at most {limits.cost_per_1000:g}"
        rows.append({"kind": "limit", "criterion": said, "about": "money for answering", "judged by": "the evaluation"})
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
    paired = criterion.beats is not None or criterion.versus is not None
    judged = "the lower bound of the paired difference" if paired else bound
    return {"kind": kind, "criterion": criterion_text(criterion), "about": about, "judged by": judged}


def looked_at(spec: UseCaseSpec) -> dict[str, Any]:
    """What else decides whether the objective can be measured, for the fingerprint: nothing, where nothing of it is used."""
    objective = spec.objective
    seen: dict[str, Any] = {}
    if any(criterion.slice is not None for criterion in (*objective.success, *objective.guards)):
        seen["metadata_of_test_rows"] = sorted(_columns(spec))
    if objective.limits.cost_per_1000 is not None:
        seen["priced"] = _priced(spec)
    return {**seen, **scored_with(spec)}


def _columns(spec: UseCaseSpec) -> set[str]:
    """Metadata that test rows can have: what their sources keep."""
    return {name for source in spec.dataset.held_out or spec.dataset.sources for name in source.metadata}


def _priced(spec: UseCaseSpec) -> bool:
    """Whether anything says what answers cost: an hour of a device, or a provider's prices."""
    hosted = any(isinstance(candidate, ApiModel) and candidate.prices is not None for candidate in spec.base_model.candidates)
    return bool(spec.environment.prices) or hosted


def _measurable(statement: Statement) -> Check:
    problems = statement.problems
    said = "every criterion can be measured" if not problems else f"{len(problems)} to mend:\n" + _list(problems)
    return Check(name="criteria_measurable", passed=not problems, description=said, metadata={"problems": len(problems)})


def _evidence(statement: Statement) -> Check:
    detectable, wanted = statement.detectable, statement.objective.evidence.smallest_gain
    if detectable is None:
        return Check(name=SHOWS_GAIN, passed=True, blocking=False, description=f"not known yet: {statement.held_out.note}")
    return gain_check(detectable, wanted=wanted)


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
