"""How likely the systems hold the two answers that people compared; only where a criterion asks for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.artifacts.examples import Example, read_rows, write_rows
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.evaluation.measured import Measured
from fine_tune_pipeline.guide.objective.measures.likelihood import PREFERRED, PREFERRED_TOKENS, REJECTED, REJECTED_TOKENS
from fine_tune_pipeline.guide.objective.metrics import metric_named
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.placement import answering_on
from fine_tune_pipeline.programs.hosted.requests import read_hosted
from fine_tune_pipeline.programs.likelihood_requests import LikelihoodJob, LikelihoodRequest, LikelihoodResult
from fine_tune_pipeline.programs.requests import PredictJob
from fine_tune_pipeline.spec.objective import ObjectiveSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

NUMBERS = (PREFERRED, REJECTED, PREFERRED_TOKENS, REJECTED_TOKENS)


class NoLikelihoods(Exception):
    """A criterion asks how likely given answers are, and nothing can tell."""


def asks_for_likelihood(objective: ObjectiveSpec, task: Task) -> bool:
    """Whether two given answers must be weighed."""
    return any("likelihood" in metric_named(criterion.metric, task).needs for criterion in (*objective.success, *objective.guards))


def weigh(
    context: "dg.AssetExecutionContext",
    compute: "Compute",
    jobs: Sequence[PredictJob],
    rows: Sequence[Example],
    *,
    model: Path,
    folder: Path,
    scratch: Path,
) -> None:
    """Write `<system>.weighed.jsonl` into `folder` for the systems of these jobs, over the rows that have two answers.

    Args:
        model: folder of the base model.
        scratch: the program's own; made here.

    Raises:
        NoLikelihoods: the model is at a provider, or no row has two answers.
    """
    compared = [row for row in rows if row.rejected is not None]
    if not compared:
        raise NoLikelihoods(
            f"none of {len(rows)} test rows has a rejected answer, and a criterion asks which of two is likelier; give "
            "`dataset.held_out` sources with layout: preference, or drop the criterion"
        )
    if read_hosted(model) is not None:
        raise NoLikelihoods(
            "a hosted model does not tell how likely a given answer is; take nearer_to_preferred in place of preference_accuracy, or a "
            "base model with weights"
        )
    scratch.mkdir()
    place = answering_on(compute.inventory())
    asked = tuple(
        LikelihoodJob(
            name=job.name,
            rows=str(_asked(job, compared, path=scratch / f"{job.name}.jsonl")),
            output=str(folder / _file(job.name)),
            format=job.format,
            adapter=job.adapter,
            shots=job.shots,
        )
        for job in jobs
    )
    request = LikelihoodRequest(
        output=str(scratch), model=str(model), jobs=asked, threads=place.threads, dtype=place.dtype, device=place.device
    )
    compute.run(context, request, LikelihoodResult)


def _asked(job: PredictJob, compared: Sequence[Example], *, path: Path) -> Path:
    """What the system itself was asked, with passages that were looked up for it, and both answers."""
    prompts = {row["id"]: row for row in read_rows(Path(job.prompts))}
    write_rows(path, ({**prompts[row.id], "completion": row.completion, "rejected": row.rejected} for row in compared))
    return path


def with_weighed(predictions: Artifact, rows: Sequence[Example], measured: Measured) -> Measured:
    """The same numbers and, for systems that were weighed, those of both answers; nothing for rows that have one."""
    found = {system: _read(predictions, system) for system in measured}
    return {
        system: [{**numbers, **found[system].get(row.id, {})} for numbers, row in zip(by_row, rows, strict=True)]
        for system, by_row in measured.items()
    }


def _read(predictions: Artifact, system: str) -> dict[str, dict[str, float]]:
    if _file(system) not in predictions.manifest.files:
        return {}
    return {row["id"]: {name: float(row[name]) for name in NUMBERS} for row in read_rows(predictions.file(_file(system)))}


def _file(system: str) -> str:
    return f"{system}.weighed.jsonl"
