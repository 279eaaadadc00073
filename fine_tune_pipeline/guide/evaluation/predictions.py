"""Answers of every system on the held-out test set, and what they cost."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Example, read_examples
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.evaluation.vectors import keep_vectors
from fine_tune_pipeline.guide.objective.task import Task, read_task
from fine_tune_pipeline.guide.technique.baselines import SHOTS, read_shots
from fine_tune_pipeline.guide.technique.systems import (
    classifier_answers,
    embed_rows,
    majority_answer,
    max_new_tokens,
    predict,
    read_answers,
    trained_format,
    untrained_format,
    write_answers,
    write_prompts,
)
from fine_tune_pipeline.programs.requests import PredictJob, PredictResult
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

FINE_TUNED = "fine_tuned"

SYSTEMS = ("majority", "classifier", "base_zero_shot", "base_few_shot", FINE_TUNED)
"""Everything that is compared, in the order of tables."""

COSTS = "costs.json"

SHOWN_ROWS = 8
"""Rows whose answers stand side by side in the web UI."""


class NoTestRows(Exception):
    """The dataset has no test set, so nothing can be evaluated."""


@dataclass(frozen=True)
class Sources:
    """The artifacts that predictions are made from."""

    dataset: Artifact
    base_model: Artifact
    baselines: Artifact
    adapter: Artifact


@dataclass(frozen=True)
class Cost:
    """What the answers of one system took. Tokens are None for systems that are no language model."""

    system: str
    rows: int
    seconds: float
    prompt_tokens: int | None = None
    new_tokens: int | None = None

    @property
    def seconds_per_1000(self) -> float:
        return 1000 * self.seconds / self.rows


def build_predictions(
    context: "dg.AssetExecutionContext", compute: "Compute", spec: UseCaseSpec, sources: Sources, folder: Path, state: Path
) -> Built:
    """Write `<system>.jsonl` for every system, `costs.json`, and for classes `vectors.npy`; `state` stays when the work breaks off.

    Raises:
        NoTestRows: the dataset has no test set.
        MissingAnswers: the program left a row without an answer.
    """
    task = read_task(spec)
    train = read_examples(sources.dataset.file("train.jsonl"))
    test = read_examples(sources.dataset.file("test.jsonl"))
    if not test:
        raise NoTestRows(
            f"{spec.name}/dataset: the test set is empty; give `dataset.held_out` sources, or set `dataset.split.test` above 0"
        )
    scratch = folder / "program"
    scratch.mkdir()
    jobs = _jobs(spec, task, sources, train=train, prompts=write_prompts(scratch / "prompts.jsonl", test), folder=folder)
    model = sources.base_model.file("model")
    result = predict(context, compute, model=model, jobs=jobs, folder=scratch / "predict", replies=state / "replies")
    costs = [_job_costs(result)[job.name] for job in jobs]
    costs = [_majority(train, test, folder=folder), *_classifier(context, compute, task, train=train, test=test, folder=folder), *costs]
    # The program's own files hold absolute paths of this build.
    shutil.rmtree(scratch)
    _write_costs(folder / COSTS, costs, result)
    answers = {cost.system: read_answers(folder / f"{cost.system}.jsonl", test) for cost in costs}
    metadata = {
        "rows": len(test),
        "systems": [cost.system for cost in costs],
        "costs": [cost_row(cost) for cost in costs],
        "answers": _side_by_side(test, answers),
        "peak_memory_gib": round(result.peak_memory_bytes / 2**30, 2),
    }
    return Built(metadata=metadata)


def cost_row(cost: Cost) -> dict[str, Any]:
    """A cost as a line of a table."""
    tokens = {} if cost.new_tokens is None else {"prompt tokens": cost.prompt_tokens, "new tokens": cost.new_tokens}
    return {
        "system": cost.system,
        "rows": cost.rows,
        "seconds": round(cost.seconds, 2),
        "seconds per 1,000": round(cost.seconds_per_1000, 1),
        **tokens,
    }


def read_costs(predictions: Artifact) -> tuple[list[Cost], int]:
    """Costs of the systems, and the most memory in bytes that answering took."""
    kept = predictions.json(COSTS)
    return [Cost(**row) for row in kept["systems"]], kept["peak_memory_bytes"]


def _jobs(spec: UseCaseSpec, task: Task, sources: Sources, *, train: Sequence[Example], prompts: Path, folder: Path) -> list[PredictJob]:
    shots = read_shots(sources.baselines.file(SHOTS))
    limit = max_new_tokens([example.completion for example in train])
    untrained, trained = untrained_format(spec, task), trained_format(spec)

    def job(name: str, **fields: Any) -> PredictJob:
        return PredictJob(name=name, prompts=str(prompts), output=str(folder / f"{name}.jsonl"), max_new_tokens=limit, **fields)

    few_shot = [job("base_few_shot", format=untrained, shots=shots)] if shots else []
    adapter = str(sources.adapter.file("adapter"))
    return [job("base_zero_shot", format=untrained), *few_shot, job(FINE_TUNED, format=trained, adapter=adapter)]


def _job_costs(result: PredictResult) -> dict[str, Cost]:
    return {
        job.name: Cost(job.name, rows=job.rows, seconds=job.seconds, prompt_tokens=job.prompt_tokens, new_tokens=job.new_tokens)
        for job in result.jobs
    }


def _majority(train: Sequence[Example], test: Sequence[Example], *, folder: Path) -> Cost:
    write_answers(folder / "majority.jsonl", test, [majority_answer(train)] * len(test))
    return Cost("majority", rows=len(test), seconds=0.0)


def _classifier(
    context: "dg.AssetExecutionContext", compute: "Compute", task: Task, *, train: Sequence[Example], test: Sequence[Example], folder: Path
) -> list[Cost]:
    """One cost, or none when the task has no classes. Its seconds are the test rows' share of embedding and learning together."""
    if not task.classes:
        return []
    start = time.monotonic()
    vectors = embed_rows(context, compute, folder / "program" / "embed", [*train, *test])
    keep_vectors(folder, vectors)
    answers = classifier_answers(train, test, task=task, train_vectors=vectors[: len(train)], row_vectors=vectors[len(train) :])
    assert answers is not None
    write_answers(folder / "classifier.jsonl", test, answers)
    seconds = (time.monotonic() - start) * len(test) / (len(train) + len(test))
    return [Cost("classifier", rows=len(test), seconds=seconds)]


def _write_costs(path: Path, costs: Sequence[Cost], result: PredictResult) -> None:
    kept = {
        "systems": [asdict(cost) for cost in costs],
        "load_seconds": result.load_seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
    }
    path.write_text(json.dumps(kept, indent=2), encoding="utf-8")


def _side_by_side(test: Sequence[Example], answers: dict[str, list[str]]) -> list[dict[str, str]]:
    return [
        {"prompt": row.prompt, "wanted": row.completion, **{system: texts[place] for system, texts in answers.items()}}
        for place, row in enumerate(test[:SHOWN_ROWS])
    ]
