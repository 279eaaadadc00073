"""The place of training, tried out: one real step on the longest batch, and what follows from it for the whole run."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.base_model.memory import GIB, training_memory
from fine_tune_pipeline.guide.environment.mask_picture import markdown_mask
from fine_tune_pipeline.guide.environment.texts import labelled, long_rows, share, texts_page, token_lengths, truncation
from fine_tune_pipeline.guide.technique.plan import Plan, number_bytes
from fine_tune_pipeline.guide.technique.systems import trained_format
from fine_tune_pipeline.guide.technique.together import speedup
from fine_tune_pipeline.pages.document import html, markdown
from fine_tune_pipeline.programs.preflight_requests import MistakeCheck, PreflightRequest, PreflightResult
from fine_tune_pipeline.programs.requests import Tracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

FILE = "preflight.json"
TEXTS = "texts.html"
OVER_LONG = "over_long.jsonl"

SHOWN_IDS = 10
"""So many of the over-long rows are named in a message; all of them are in `over_long.jsonl`."""


@dataclass(frozen=True)
class Trial:
    """What one preflight needs."""

    spec: UseCaseSpec
    plan: Plan
    dataset: Artifact
    base: Artifact
    tracking: Tracking | None = None
    artifacts: str | None = None


@dataclass(frozen=True)
class Forecast:
    """The whole run as the measured step says. `minutes` is None when no step could be measured; `peak_ratio` is measured over predicted
    at the lengths that were measured, None when no step was tried."""

    minutes: float | None
    predicted_peak_bytes: int
    peak_ratio: float | None


def build_preflight(context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, trial: Trial) -> Built:
    """Run preflight where training will run; write `preflight.json` and, of the rows, `texts.html` and `over_long.jsonl` into `folder`."""
    work, plan, model = folder / "work", trial.plan, trial.base.file("model")
    work.mkdir()
    request = PreflightRequest(
        output=str(work),
        model=str(model),
        **{part: str(trial.dataset.file(f"{part}.jsonl")) for part in ("train", "validation", "test")},
        format=trained_format(trial.spec),
        technique=plan.technique,
        hyperparameters=plan.hyperparameters,
        placement=plan.placement,
        processes=plan.processes,
        parts=plan.parts,
        over_long_limit=trial.spec.training.over_long_limit,
        tracking=trial.tracking,
        artifacts=trial.artifacts,
    )
    seen = compute.run(context, request, PreflightResult)
    shutil.rmtree(work)
    seen.write(folder / FILE)
    max_length = plan.hyperparameters.max_length
    write_rows(folder / OVER_LONG, long_rows(seen, max_length=max_length))
    texts = texts_page(seen, max_length=max_length, use_case=trial.spec.name)
    (folder / TEXTS).write_text(html(texts), encoding="utf-8")
    rows = len(read_rows(trial.dataset.file("train.jsonl")))
    whole = forecast(seen, plan, read_model_folder(model).architecture, training_rows=rows)
    tables = {"token_lengths": token_lengths(seen), "truncation": truncation(seen, max_length=max_length), "labelled": labelled(seen)}
    shares = {f"labelled_share_{part.part}": share(part) for part in seen.parts}
    return Built(
        metadata={**_metadata(seen, whole, plan), **shares, **tables, **_added(seen, plan), "mistakes": mistakes(seen)},
        markdown={"texts": markdown(texts), "what_is_learned": markdown_mask(seen.preview, title="What is learned of three training rows")},
        checks=[passed(seen, plan, [*problems_of(seen, trial.spec), *_unmeasured_problems(seen, plan)])],
    )


def read_preflight(artifact: Artifact) -> PreflightResult:
    """What preflight measured, of an artifact of `environment`."""
    return PreflightResult.read(artifact.file(FILE))


def problems_of(seen: PreflightResult, spec: UseCaseSpec) -> list[str]:
    """Why training must not start, each with what to do; empty if it may."""
    found = [f"{check.id}: {check.seen}; {check.change}" for check in seen.mistakes if check.passed is False]
    return [*seen.problems, *found, *_disk_problems(seen, spec), *_memory_problems(seen, spec)]


def mistakes(seen: PreflightResult) -> list[dict[str, object]]:
    """A row for each classic mistake, those that are there first."""
    return [
        {"check": check.id, "result": _result(check), "seen": check.seen, "change": check.change, "seconds": round(check.seconds, 2)}
        for check in sorted(seen.mistakes, key=lambda check: check.passed is not False)
    ]


def _result(check: MistakeCheck) -> str:
    return {True: "passed", False: "failed", None: "does not apply"}[check.passed]


def forecast(seen: PreflightResult, plan: Plan, model: Architecture, *, training_rows: int) -> Forecast:
    """Minutes and memory of the whole run, from the measured step."""
    tokens = seen.batch_rows * plan.hyperparameters.sequences * min(seen.longest_tokens, plan.hyperparameters.max_length)
    predicted = training_memory(
        model,
        plan.technique,
        number_bytes=number_bytes(plan.placement),
        tokens=tokens,
        labelled_tokens=int(tokens * plan.labelled_share),
        checkpointing=plan.placement.gradient_checkpointing,
        device=plan.placement.device,
        parts=plan.parts,
    ).total
    whole = training_rows * mean_tokens(seen) * plan.hyperparameters.sequences * plan.hyperparameters.epochs
    # The step was measured on one device.
    faster = speedup(plan.hyperparameters.effective_batch, plan.trained_on)
    loop = whole / seen.tokens_per_second / faster if seen.tokens_per_second else None
    # What runs before is as much slower or faster than planned as the measured step is.
    minutes = None if loop is None else loop * plan.chosen.seconds / plan.chosen.loop_seconds / 60
    ratio = None if seen.not_tried else seen.peak_memory_bytes / predicted
    return Forecast(minutes=minutes, predicted_peak_bytes=predicted, peak_ratio=ratio)


def mean_tokens(seen: PreflightResult) -> float:
    """Tokens of a mean row, estimated from the quantiles: lengths are skewed to the right, so the mean lies above the median."""
    return 0.75 * seen.tokens_p50 + 0.25 * seen.tokens_p95


def _disk_problems(seen: PreflightResult, spec: UseCaseSpec) -> list[str]:
    free, wanted = seen.disk_free_bytes / GIB, spec.environment.disk_free_gib
    if free >= wanted:
        return []
    return [f"disk: {free:.1f} GiB are free, environment.disk_free_gib asks for {wanted:g}; make room, or put the store elsewhere"]


def _memory_problems(seen: PreflightResult, spec: UseCaseSpec) -> list[str]:
    headroom = spec.environment.memory_headroom
    peak, usable = seen.peak_memory_bytes / GIB, seen.memory_total_bytes * (1 - headroom) / GIB
    if peak <= usable:
        return []
    return [
        f"memory: the measured peak is {peak:.2f} GiB, {usable:.2f} GiB may be used ({headroom:.0%} stay free, "
        "environment.memory_headroom); lower training.effective_batch or training.max_length, or choose a smaller base model"
    ]


def _unmeasured_problems(seen: PreflightResult, plan: Plan) -> list[str]:
    """Without a measured peak, the plan's forecast is held against what is free."""
    needed = plan.predicted_peak_bytes * plan.processes // plan.trained_on
    if not seen.not_tried or needed <= seen.memory_available_bytes:
        return []
    return [
        f"memory: the plan forecasts {needed / GIB:.2f} GiB, {seen.memory_available_bytes / GIB:.2f} GiB are free on {seen.device}; "
        "close what else runs there"
    ]


def passed(seen: PreflightResult, plan: Plan, problems: Sequence[str]) -> Check:
    """Whether training may start, in words; what does not stop it but should be known is said too."""
    said = f"one training step of {seen.batch_rows} rows took {seen.step_seconds:.2f} s on {seen.device}, loss {seen.loss:.3f}"
    if seen.not_tried:
        said = f"trial: not run: {seen.not_tried}; all else on {seen.device} was looked at"
    if plan.placement.dtype == "bfloat16" and seen.bfloat16_speedup < 1:
        said += f"; bfloat16 runs at {seen.bfloat16_speedup:.2f} of the speed of float32 here: write training.dtype: float32"
    failed = [check.id for check in seen.mistakes if check.passed is False]
    if problems:
        said = "training must not start: " + "; ".join(problems)
    elif seen.over_long:
        said += f"; {len(seen.over_long)} over-long rows are left out of training: {some(seen.over_long)}"
    return Check(name="preflight_passed", passed=not problems, description=said, metadata={"problems": len(problems), "failed": failed})


def _added(seen: PreflightResult, plan: Plan) -> dict[str, object]:
    """Of tokens that were added to the base model; nothing without."""
    return {"added_tokens_in_no_row": list(seen.unused_tokens)} if plan.technique.added_tokens else {}


def _metadata(seen: PreflightResult, whole: Forecast, plan: Plan) -> dict[str, object]:
    return {
        "device": seen.device,
        "devices": list(seen.devices),
        "driver": seen.driver,
        "versions": seen.versions,
        "cpu_cores": seen.cpu_cores,
        "memory_total_gib": seen.memory_total_bytes / GIB,
        "memory_available_gib": seen.memory_available_bytes / GIB,
        "disk_free_gib": seen.disk_free_bytes / GIB,
        "rows": seen.rows,
        "tokens_p50": seen.tokens_p50,
        "tokens_p95": seen.tokens_p95,
        "tokens_longest": seen.longest_tokens,
        "max_length": plan.hyperparameters.max_length,
        "over_long_rows": len(seen.over_long),
        "over_long_ids": list(seen.over_long[:SHOWN_IDS]),
        **_step(seen),
        "bfloat16_speedup": seen.bfloat16_speedup,
        "tried_answer": None if seen.answer is None else seen.answer.text,
        "mistakes_failed": sum(check.passed is False for check in seen.mistakes),
        "mistakes_not_applicable": sum(check.passed is None for check in seen.mistakes),
        "mistakes_seconds": sum(check.seconds for check in seen.mistakes),
        "predicted_minutes": whole.minutes,
        "planned_minutes": plan.predicted_seconds / 60,
        "predicted_peak_gib": whole.predicted_peak_bytes / GIB,
        "peak_measured_over_predicted": whole.peak_ratio,
    }


def _step(seen: PreflightResult) -> dict[str, object]:
    """Of the training step that was tried, or why none was."""
    if seen.not_tried:
        return {"trial": f"not run: {seen.not_tried}"}
    return {
        "batch_rows": seen.batch_rows,
        "step_seconds": seen.step_seconds,
        "tokens_per_second": seen.tokens_per_second,
        "loss": seen.loss,
        "peak_memory_gib": seen.peak_memory_bytes / GIB,
    }
