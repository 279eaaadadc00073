"""The plan as an artifact: `plan.json`, and the tables that explain it."""

from datetime import date
from pathlib import Path

from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.build import added_ids
from fine_tune_pipeline.guide.base_model.hardware import speed
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.base_model.memory import GIB
from fine_tune_pipeline.guide.base_model.price import stale
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.guide.technique.comparisons import said, work_of
from fine_tune_pipeline.guide.technique.fit import fits
from fine_tune_pipeline.guide.technique.placement import placement_rules
from fine_tune_pipeline.guide.technique.plan import FILE, Job, Place, Plan, make_plan
from fine_tune_pipeline.guide.technique.rules import Resolved, Rule, technique_rules
from fine_tune_pipeline.guide.technique.search.winner import Winner, read_winner, sourced, with_winner
from fine_tune_pipeline.guide.technique.search.winner import shown as shown_winner
from fine_tune_pipeline.guide.technique.stopping import check_stopping
from fine_tune_pipeline.guide.technique.together import rows_of_one, sharing_rules
from fine_tune_pipeline.spec.use_case import UseCaseSpec


def build_plan(
    folder: Path, *, spec: UseCaseSpec, place: Place, dataset: Artifact, base: Artifact, today: date, searched: Artifact | None = None
) -> Built:
    """Write `plan.json` into `folder`, and show every option with its predicted memory, time, energy and cost.

    Args:
        searched: an artifact of `search`, whose numbers are taken.
    """
    check_stopping(spec.training.early_stopping, read_task(spec))
    job = job_of(spec, dataset=dataset, base=base)
    winner = None if searched is None else read_winner(searched)
    plan, job, resolved = _planned(job, place, winner, dataset)
    plan.write(folder / FILE)
    metadata = {
        "technique": plan.technique.label,
        "reason": plan.reason,
        "options": [option.row() for option in plan.options],
        "hyperparameters": [_row(rule) for rule in (*_adapter_rules(plan, job, winner), *resolved.rules)],
        "placement": [_row(rule) for rule in _placing(plan, job)],
        "training_rows": job.work.rows,
        "compared": said(read_examples(dataset.file("train.jsonl"))) if spec.training.preference else None,
        "predicted_tokens_per_epoch": job.work.tokens,
        "predicted_peak_gib": plan.predicted_peak_bytes / GIB,
        "predicted_minutes": plan.predicted_seconds / 60,
        "predicted_minutes_before_training": plan.chosen.before_seconds / 60 or None,
        "predicted_cost": plan.chosen.row()["predicted cost"],
        "speed_taken": speed(place.inventory).basis,
        "calibration": str(place.correction(plan.technique, plan.hyperparameters, plan.placement)),
        "price_warning": stale(place.price, today=today),
        **({} if winner is None else shown_winner(winner)),
    }
    shown = {name: value for name, value in metadata.items() if value is not None}
    return Built(metadata=shown, checks=[fits(plan, job, place)])


def _planned(job: Job, place: Place, winner: Winner | None, dataset: Artifact) -> tuple[Plan, Job, Resolved]:
    plan, resolved = make_plan(job, place)
    if winner is None:
        return plan, job, resolved
    train, validation = (read_examples(dataset.file(f"{name}.jsonl")) for name in ("train", "validation"))
    found = with_winner(plan, job, place, winner, train=train, validation=validation)
    return found.plan, found.job, found.resolved


def misfit(spec: UseCaseSpec, *, place: Place, dataset: Artifact, base: Artifact, searched: Artifact | None = None) -> str | None:
    """Why no plan fits, and the nearest setting that would; None when one does."""
    winner = None if searched is None else read_winner(searched)
    plan, job, _ = _planned(job_of(spec, dataset=dataset, base=base), place, winner, dataset)
    check = fits(plan, job, place)
    return None if check.passed else check.description


def job_of(spec: UseCaseSpec, *, dataset: Artifact, base: Artifact) -> Job:
    """What is to be trained, read from the artifacts."""
    model = read_model_folder(base.file("model"))
    train, validation = (read_examples(dataset.file(f"{name}.jsonl")) for name in ("train", "validation"))
    work = work_of(train, validation, training=spec.training)
    return Job(
        model=model.architecture,
        context=model.context,
        work=work,
        technique=spec.technique,
        training=spec.training,
        added_tokens=added_ids(base),
    )


def read_plan(artifact: Artifact) -> Plan:
    """The plan of an artifact of `training_plan`."""
    return Plan.read(artifact.file(FILE))


def _adapter_rules(plan: Plan, job: Job, winner: Winner | None) -> tuple[Rule, ...]:
    rules = technique_rules(plan.technique, written=job.technique, model=job.model, work=job.work)
    return rules if winner is None else sourced(rules, winner)


def _placing(plan: Plan, job: Job) -> tuple[Rule, ...]:
    batch = plan.hyperparameters.effective_batch
    rules = placement_rules(
        plan.placement,
        effective_batch=rows_of_one(batch, plan.processes),
        asked=job.training.dtype,
        missing_gib=(plan.chosen.peak_bytes_without_recompute - plan.memory_bytes) / GIB,
    )
    shared = sharing_rules(processes=plan.processes, parallel=plan.parallel, trained_on=plan.trained_on, effective_batch=batch)
    return (*rules, *shared)


def _row(rule: Rule) -> dict[str, str]:
    return {"setting": rule.setting, "value": str(rule.value), "rule": rule.rule}
