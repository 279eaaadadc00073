"""The fresh test set: rows of production that no training has seen, answered by the same systems and reported beside the old one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fine_tune_pipeline.artifacts.examples import Example, read_examples
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.dataset.publishing.publish import FRESH
from fine_tune_pipeline.guide.evaluation.held_out_rows import judgeable
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.systems import FEW_SHOT, ZERO_SHOT
from fine_tune_pipeline.programs.requests import PredictJob
from fine_tune_pipeline.spec.objective import CHAMPION

FOLDER = "fresh"

FINE_TUNED = "fine_tuned"

SYSTEMS = (ZERO_SHOT, FEW_SHOT, CHAMPION, FINE_TUNED)
"""Those that answer fresh rows: the base, who answers now, and what was trained last."""


def fresh_rows(dataset: Artifact, task: Task, *, use_case: str) -> list[Example]:
    """The rows, none where production has given none yet."""
    if FRESH not in dataset.manifest.files:
        return []
    return judgeable(read_examples(dataset.file(FRESH)), task, where=f"{use_case}/dataset/{FRESH}")


def fresh_jobs(jobs: Sequence[PredictJob], prompts: Mapping[str, Path], *, folder: Path) -> list[PredictJob]:
    """The same jobs on fresh rows, for the systems that answer these; untimed.

    Args:
        prompts: name of a job -> file of what it is asked; `plain` for the others.
        folder: of the predictions.
    """
    (folder / FOLDER).mkdir()
    return [
        job.model_copy(
            update={
                "name": f"{FOLDER}_{job.name}",
                "prompts": str(prompts.get(job.name, prompts["plain"])),
                "output": str(answers_of(folder, job.name)),
                "timed_rows": 0,
            }
        )
        for job in jobs
        if job.name in SYSTEMS
    ]


def answers_of(folder: Path, system: str) -> Path:
    """The file of a system's answers to fresh rows, in the folder of the predictions."""
    return folder / FOLDER / f"{system}.jsonl"
