"""Training: the planned run on the rows that fit, and what came of it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.artifacts.taking import taken_file, taken_folder
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.base_model.memory import GIB
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.guide.technique.build_plan import job_of
from fine_tune_pipeline.guide.technique.calibration import Run, errors, observed
from fine_tune_pipeline.guide.technique.plan import Plan
from fine_tune_pipeline.guide.technique.recipes import left_out
from fine_tune_pipeline.guide.technique.stopping import answer_scoring, stops_on_answers
from fine_tune_pipeline.guide.technique.systems import trained_format
from fine_tune_pipeline.guide.training import canaries
from fine_tune_pipeline.guide.training.curve import markdown_picture
from fine_tune_pipeline.guide.training.expert_load import load_rows, moved
from fine_tune_pipeline.programs.requests import AnswerScoring, CheckpointPolicy, Tracking, TrainRequest, TrainResult
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.spec.technique import LowRank
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

ADAPTER = "adapter"
CURVE = "curve.jsonl"
FILE = "train.json"
OBSERVATION = "observation.json"
RANGE_TEST = "range_test.json"


@dataclass(frozen=True)
class Training:
    """What one training needs. `over_long` are ids of training and validation rows that preflight found too long: they are left
    out, counted and named."""

    spec: UseCaseSpec
    plan: Plan
    over_long: tuple[str, ...]
    tracking: Tracking
    dataset: Artifact
    base: Artifact
    inventory: Inventory
    started_at: str


def content(plan: Plan, spec: UseCaseSpec) -> dict[str, Any]:
    """What of the plan decides the adapter: the mathematics, not where or in how small pieces it is done."""
    what: dict[str, Any] = {
        "technique": plan.technique,
        "training": plan.hyperparameters,
        "training_plan.dtype": plan.placement.dtype,
        "dataset.format.style": spec.dataset.format.style,
    }
    if spec.training.canaries is not None:
        what["training.canaries"] = [asdict(one) for one in canaries.drawn(spec)]
    what |= {} if plan.recipe is None else {"training_plan.recipe": plan.recipe}
    # Otherwise the task decides nothing of what is learned.
    return {**what, "objective.task": read_task(spec).described()} if stops_on_answers(spec.training.early_stopping) else what


def build_adapter(context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, work: Path, training: Training) -> Built:
    """Train, and write `adapter/`, `curve.jsonl` and `train.json` into `folder`.

    Args:
        work: of the program; it stays when the training breaks off, so that the next try finds what this one has left.
    """
    plan = training.plan
    request = TrainRequest(
        output=str(work),
        model=str(training.base.file("model")),
        train=str(_with_canaries(training, work)),
        validation=str(_fitting(training, "validation", work)),
        format=trained_format(training.spec),
        technique=plan.technique,
        hyperparameters=plan.hyperparameters,
        placement=plan.placement,
        answers=_scoring(training),
        checkpoints=CheckpointPolicy(**training.spec.training.checkpoints.model_dump()),
        stall_seconds=60 * training.spec.training.stall_minutes,
        tracking=training.tracking,
    )
    result = compute.run(context, request, TrainResult)
    taken_folder(Path(result.adapter), folder / ADAPTER)
    taken_file(Path(result.curve), folder / CURVE)
    if planted := canaries.drawn(training.spec):
        write_rows(folder / canaries.FILE, map(asdict, planted))
    # Inside the artifact, paths begin at its folder.
    kept = result.model_copy(update={"adapter": ADAPTER, "curve": CURVE})
    if result.range_test is not None:
        taken_file(Path(result.range_test), folder / RANGE_TEST)
        kept = kept.model_copy(update={"range_test": RANGE_TEST})
    kept.write(folder / FILE)
    built = _built(kept, training, curve=read_rows(folder / CURVE))
    tested = {} if kept.range_test is None else {"range_test": range_test_picture(json.loads((folder / RANGE_TEST).read_text("utf-8")))}
    return built.model_copy(
        update={"metadata": {**built.metadata, **_compared(kept, training, folder)}, "markdown": {**built.markdown, **tested}}
    )


def _compared(result: TrainResult, training: Training, folder: Path) -> dict[str, float]:
    """How far the plan was off, for the artifact's metadata; and what the run teaches, as a file for the next plan."""
    model = read_model_folder(training.base.file("model")).architecture
    work = job_of(training.spec, dataset=training.dataset, base=training.base).work
    run = Run(training.plan, model, training.base.fingerprint, work, training.inventory, result)
    observed(run, made_at=training.started_at).write(folder / OBSERVATION)
    return errors(run)


def read_train_result(artifact: Artifact) -> TrainResult:
    """What training gave, of an artifact of `adapter`; paths begin at its folder."""
    return TrainResult.read(artifact.file(FILE))


def _scoring(training: Training) -> AnswerScoring | None:
    answers = [row["completion"] for row in read_rows(training.dataset.file("train.jsonl"))]
    return answer_scoring(training.spec.training.early_stopping, read_task(training.spec), answers)


def _fitting(training: Training, name: str, work: Path) -> Path:
    source = training.dataset.file(f"{name}.jsonl")
    unwanted = left_out(source, training.plan.recipe) if name == "train" else ()
    return kept_rows(source, work / f"{name}.jsonl", left_out=(*training.over_long, *unwanted))


def _with_canaries(training: Training, work: Path) -> Path:
    """The training rows that fit, and planted codes after them, if the use case asks for some."""
    rows, planted = _fitting(training, "train", work), canaries.training_rows(canaries.drawn(training.spec))
    if not planted:
        return rows
    write_rows(work / "train_and_canaries.jsonl", [*read_rows(rows), *planted])
    return work / "train_and_canaries.jsonl"


def kept_rows(source: Path, target: Path, *, left_out: Sequence[str]) -> Path:
    """The rows without the over-long ones; the file itself when there are none."""
    if not left_out:
        return source
    gone = set(left_out)
    write_rows(target, (row for row in read_rows(source) if row["id"] not in gone))
    return target


def falling(result: TrainResult) -> Check:
    """Whether every loss is a number, and the validation loss is lower after training than before."""
    assert result.first_loss is not None
    assert result.final_loss is not None
    losses = [result.first_loss, result.final_loss, *(loss for _, loss in result.validation_losses)]
    before, after = result.validation_losses[0][1], result.kept_loss
    kept = result.steps if result.best_step is None else result.best_step
    said = f"validation loss {before:.4f} before training, {after:.4f} after {kept} steps"
    finite = all(math.isfinite(loss) for loss in losses)
    if not finite:
        said += "; a loss is not a number: lower training.learning_rate"
    elif after >= before:
        said += "; it did not fall: lower training.learning_rate, look at the data's labels, or train for more epochs"
    return Check(name="loss_finite_and_falling", passed=finite and after < before, description=said)


def _built(result: TrainResult, training: Training, *, curve: list[dict[str, Any]]) -> Built:
    plan, over_long = training.plan, training.over_long
    return Built(
        metadata={
            "technique": plan.technique.label,
            "steps": result.steps,
            "processes": result.processes,
            "rows": result.rows,
            "rows_left_out": len(over_long),
            "ids_left_out": list(over_long),
            **({} if plan.recipe is None else {"data_recipe": str(plan.recipe)}),
            "tokens": result.tokens,
            "labelled_tokens": result.labelled_tokens,
            "training_seconds": result.seconds,
            "tokens_per_second": result.tokens_per_second,
            "compiled_layers": result.compiled_layers,
            "padding_share": result.padding_share,
            "steps_skipped": len(result.skipped_steps),
            "continued_from_steps": list(result.continued_from) or "not broken off",
            "first_loss": result.first_loss,
            "final_loss": result.final_loss,
            "validation_loss_before": result.validation_losses[0][1],
            "validation_loss_after": result.kept_loss,
            **({} if result.best_step is None else {"best_step": result.best_step, "stopped": result.outcome}),
            **compared(result),
            "peak_memory_gib": result.peak_memory_bytes / GIB,
            "trainable_parameters": result.trainable_parameters,
            "trainable_share": result.trainable_parameters / max(option.trainable_parameters for option in plan.options),
            "learning_rate": result.learning_rate,
            "adapter_sha256": result.adapter_sha256,
            "mlflow_run_id": result.mlflow_run_id,
            **({"expert_load": load_rows(result.expert_load)} if result.expert_load else {}),
        },
        markdown={
            "loss": loss_picture(curve, result),
            **({"score": score_picture(result, training)} if result.scores else {}),
            "trouble": trouble(result),
            "mlflow_run": run_link(training.tracking, result.mlflow_run_id),
        },
        checks=[falling(result), *([moved(result.expert_load)] if experts_learn(training.spec) else [])],
    )


def trouble(result: TrainResult) -> str:
    """What went wrong on the way, and what was done about it."""
    skipped = [f"step {step} was not learned from: {why}" for step, why in result.skipped_steps]
    lines = [*skipped, *result.remedies]
    return "\n".join(f"- {line}" for line in lines) if lines else "none"


def experts_learn(spec: UseCaseSpec) -> bool:
    """Whether routed experts are asked to."""
    return isinstance(spec.technique, LowRank) and spec.technique.experts != "frozen"


def compared(result: TrainResult) -> dict[str, float | int]:
    """Of compared answers: how often the preferred one wins on validation rows, before and after; nothing if none were compared."""
    if not result.validation_figures:
        return {}
    before, after = result.validation_figures[0][1], result.validation_figures[-1][1]
    found: dict[str, float | int] = {f"validation_{name}_before": value for name, value in before.items()}
    found |= {f"validation_{name}_after": value for name, value in after.items()}
    return found | {"rows_without_comparison": len(result.without_comparison)}


def loss_picture(curve: Sequence[dict[str, Any]], result: TrainResult) -> str:
    """Training and validation loss over the steps."""
    lines = {
        "training loss": [(float(point["step"]), float(point["loss"])) for point in curve],
        "validation loss": [(float(step), loss) for step, loss in result.validation_losses],
    }
    # A loss that is no number has no place in a picture; the check says it.
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in lines.items()}
    shown = {name: points for name, points in finite.items() if points}
    each = "comparison" if result.validation_figures else "token"
    return markdown_picture(shown, title=f"loss in nats per {each}", across="steps") if shown else "no finite loss"


def score_picture(result: TrainResult, training: Training) -> str:
    """The task's metric on the rows that were answered while training."""
    wanted = training.plan.hyperparameters.early_stopping
    assert wanted is not None
    points = [(float(step), score) for step, score in result.scores]
    return markdown_picture({wanted.metric: points}, title=f"{wanted.metric} of {wanted.rows} validation rows at most", across="steps")


def range_test_picture(found: Mapping[str, Any]) -> str:
    """Loss over the rising rate, the rate that was taken, and why."""
    said = f"learning rate {found['learning_rate']:.3g}: {found['why']}"
    lines = {
        name: [(math.log10(point["learning_rate"]), float(point[name])) for point in found["points"] if math.isfinite(float(point[name]))]
        for name in ("loss", "smoothed")
    }
    shown = {name: points for name, points in lines.items() if points}
    return f"{said}\n\n{markdown_picture(shown, title='loss by learning rate', across='log10 of the rate')}" if shown else said


def run_link(tracking: Tracking, run_id: str | None) -> str:
    """Where the MLflow run is seen: a link when the store is a server, else how to look."""
    if run_id is None:
        return "not tracked"
    if tracking.uri.startswith(("http://", "https://")):
        return f"[{tracking.run_name}]({tracking.uri.rstrip('/')}/#/runs/{run_id})"
    return f"run `{run_id}` of experiment `{tracking.experiment}`; to look at it: `mlflow ui --backend-store-uri {tracking.uri}`"
