"""Training at the provider: the planned job on the rows that fit, and what came of it. The "adapter" is the tuned model's name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.artifacts.taking import taken_file, taken_folder
from fine_tune_pipeline.guide.base_model.hosted import HostedBase, pinned
from fine_tune_pipeline.guide.technique.hosted_plan import TECHNIQUE, HostedPlan, training_cost
from fine_tune_pipeline.guide.training.adapter import ADAPTER, CURVE, FILE, kept_rows, loss_picture, run_link
from fine_tune_pipeline.programs.hosted.requests import HostedTrainRequest, HostedTrainResult
from fine_tune_pipeline.programs.requests import Tracking, TrainResult
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

JOB = "job.json"


@dataclass(frozen=True)
class HostedTraining:
    """What one job needs. `over_long` are ids of rows that the check found too long: they are left out, counted and named."""

    spec: UseCaseSpec
    plan: HostedPlan
    base: HostedBase
    over_long: tuple[str, ...]
    tracking: Tracking
    dataset: Artifact


def hosted_content(plan: HostedPlan, base: HostedBase) -> dict[str, Any]:
    """What decides the tuned model; neither prices nor the place of the key."""
    return {"technique": {"type": TECHNIQUE}, "training": plan.job, "base_model": pinned(base.entry)}


def build_hosted_adapter(
    context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, state: Path, training: HostedTraining
) -> Built:
    """Tune, and write `adapter/`, `curve.jsonl`, `job.json` and `train.json` into `folder`.

    Args:
        state: stays when the run breaks off, so that the next one adopts the job.
    """
    work = folder / "work"
    work.mkdir()
    request = HostedTrainRequest(
        output=str(work),
        hosted=training.base.hosted,
        job=training.plan.job,
        use_case=training.spec.name,
        train=str(_fitting(training, "train", work)),
        validation=str(_fitting(training, "validation", work)),
        state=str(state),
        poll_seconds=training.base.entry.poll_seconds,
        tracking=training.tracking,
    )
    result = compute.run(context, request, HostedTrainResult)
    taken_folder(Path(result.adapter), folder / ADAPTER)
    taken_file(Path(result.curve), folder / CURVE)
    kept = result.model_copy(update={"adapter": ADAPTER, "curve": CURVE})
    kept.write(folder / JOB)
    curve = read_rows(folder / CURVE)
    as_trained(kept, curve).write(folder / FILE)
    return _built(kept, training, curve=curve)


def as_trained(result: HostedTrainResult, curve: Sequence[dict[str, Any]]) -> TrainResult:
    """In the form of our own trainings, for those who read on; what nobody outside sees (memory, parameters, labels) is 0."""
    losses = [point["loss"] for point in curve]
    tokens = result.trained_tokens or 0
    return TrainResult(
        adapter=result.adapter,
        adapter_sha256=result.adapter_sha256,
        steps=result.steps,
        rows=result.rows,
        tokens=tokens,
        labelled_tokens=0,
        seconds=result.seconds,
        tokens_per_second=tokens / result.seconds if result.seconds else 0.0,
        first_loss=losses[0] if losses else None,
        final_loss=_mean(losses[-max(1, min(10, len(losses) // 4)) :]) if losses else None,
        validation_losses=result.validation_losses,
        peak_memory_bytes=0,
        trainable_parameters=0,
        curve=result.curve,
        mlflow_run_id=result.mlflow_run_id,
    )


def fell(trained: TrainResult) -> Check:
    """Whether the losses that the provider gave are numbers and fell; a provider that gives none is not blamed for it."""
    before, after, what = _compared(trained)
    if before is None or after is None:
        return Check(
            name="loss_finite_and_falling", passed=True, description="the provider gave no losses; step 7 will show what it learned"
        )
    finite = math.isfinite(before) and math.isfinite(after)
    said = f"{what} loss {before:.4f} at first, {after:.4f} at the end"
    if not finite or after >= before:
        said += "; it did not fall: lower learning_rate_multiplier of the candidate, look at the data's labels, or train for more epochs"
    return Check(name="loss_finite_and_falling", passed=finite and after < before, description=said)


def _compared(trained: TrainResult) -> tuple[float | None, float | None, str]:
    if len(trained.validation_losses) > 1:
        return trained.validation_losses[0][1], trained.validation_losses[-1][1], "validation"
    return trained.first_loss, trained.final_loss, "training"


def _fitting(training: HostedTraining, name: str, work: Path) -> Path:
    return kept_rows(training.dataset.file(f"{name}.jsonl"), work / f"{name}.jsonl", left_out=training.over_long)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _built(result: HostedTrainResult, training: HostedTraining, *, curve: list[dict[str, Any]]) -> Built:
    trained = as_trained(result, curve)
    entry = training.base.entry
    cost = training_cost(entry, tokens=trained.tokens) if result.trained_tokens is not None else None
    return Built(
        metadata={
            "technique": TECHNIQUE,
            "tuned_model": result.model,
            "job": result.job_id,
            "adopted": result.adopted,
            "steps": result.steps,
            "rows": result.rows,
            "rows_left_out": len(training.over_long),
            "ids_left_out": list(training.over_long),
            "tokens": trained.tokens,
            "cost": cost,
            "currency": entry.prices.currency if entry.prices else None,
            "training_seconds": result.seconds,
            "first_loss": trained.first_loss,
            "final_loss": trained.final_loss,
            "checkpoints": [checkpoint.model_dump() for checkpoint in result.checkpoints] or "none",
            "adapter_sha256": result.adapter_sha256,
            "mlflow_run_id": result.mlflow_run_id,
        },
        markdown={"loss": loss_picture(curve, trained), "mlflow_run": run_link(training.tracking, result.mlflow_run_id)},
        checks=[fell(trained)],
    )
