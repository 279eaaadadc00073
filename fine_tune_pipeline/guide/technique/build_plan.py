"""The plan as an artifact: `plan.json`, and the tables that explain it."""

from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.hardware import speed
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.technique.plan import FILE, Job, Place, Plan, fits, make_plan
from fine_tune_pipeline.guide.technique.workload import workload
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.inventory import Inventory


def build_plan(folder: Path, *, spec: UseCaseSpec, inventory: "Inventory", dataset: Artifact, base: Artifact) -> Built:
    """Write `plan.json` into `folder`, and show every option with its predicted memory, time and energy."""
    job, place = job_of(spec, dataset=dataset, base=base), Place.of(inventory, headroom=spec.environment.memory_headroom)
    plan, resolved = make_plan(job, place)
    plan.write(folder / FILE)
    metadata = {
        "technique": plan.technique.type,
        "reason": plan.reason,
        "options": [option.row() for option in plan.options],
        "hyperparameters": [{"setting": rule.setting, "value": str(rule.value), "rule": rule.rule} for rule in resolved.rules],
        "placement": plan.placement.model_dump(),
        "training_rows": job.work.rows,
        "predicted_tokens_per_epoch": job.work.tokens,
        "predicted_peak_gib": plan.predicted_peak_bytes / (1 << 30),
        "predicted_minutes": plan.predicted_seconds / 60,
        "speed_taken": speed(inventory).basis,
    }
    return Built(metadata=metadata, checks=[fits(plan, job, place)])


def job_of(spec: UseCaseSpec, *, dataset: Artifact, base: Artifact) -> Job:
    """What is to be trained, read from the artifacts."""
    model = read_model_folder(base.file("model"))
    train, validation = (read_examples(dataset.file(f"{name}.jsonl")) for name in ("train", "validation"))
    work = workload(train, validation, loss_on=spec.training.loss_on)
    return Job(model=model.architecture, context=model.context, work=work, technique=spec.technique, training=spec.training)


def read_plan(artifact: Artifact) -> Plan:
    """The plan of an artifact of `training_plan`."""
    return Plan.read(artifact.file(FILE))
