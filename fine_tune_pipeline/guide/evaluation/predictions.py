"""Answers of every system on the held-out test set, and what they cost."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Example, read_examples
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.evaluation.held_out_rows import judgeable
from fine_tune_pipeline.guide.evaluation.retraining.champion import Champion
from fine_tune_pipeline.guide.evaluation.retraining.fresh import FINE_TUNED, fresh_jobs, fresh_rows
from fine_tune_pipeline.guide.evaluation.vectors import keep_vectors
from fine_tune_pipeline.guide.evaluation.weighed import asks_for_likelihood, weigh
from fine_tune_pipeline.guide.objective.task import Task, read_task
from fine_tune_pipeline.guide.technique.answer_rows import read_all_answers
from fine_tune_pipeline.guide.technique.answers import Cost as OneCost
from fine_tune_pipeline.guide.technique.answers import answer_by_half, classified
from fine_tune_pipeline.guide.technique.baselines import FILE as BASELINES
from fine_tune_pipeline.guide.technique.baselines import PASSAGES, SHOTS, read_shots
from fine_tune_pipeline.guide.technique.decoding import decoded
from fine_tune_pipeline.guide.technique.index import Index, read_index, room_for
from fine_tune_pipeline.guide.technique.rows import Data
from fine_tune_pipeline.guide.technique.systems import (
    CLASSIFIER,
    FEW_SHOT,
    RETRIEVAL,
    WORD_CLASSIFIER,
    ZERO_SHOT,
    Embedded,
    embedded,
    majority_answer,
    max_new_tokens,
    predict,
    trained_format,
    untrained_format,
    write_answers,
    write_prompts,
)
from fine_tune_pipeline.programs.requests import PredictJob, PredictResult
from fine_tune_pipeline.spec.objective import CHAMPION
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

WITHOUT_CONTEXT = "fine_tuned_without_context"
"""The fine-tuned model asked without what it was trained to be given; only where that is anything (`dataset.format.context`)."""

SYSTEMS = ("majority", WORD_CLASSIFIER, CLASSIFIER, ZERO_SHOT, FEW_SHOT, RETRIEVAL, WITHOUT_CONTEXT, CHAMPION, FINE_TUNED)
"""Everything that is compared, in the order of tables."""

COSTS = "costs.json"

HALF = "classifier_half.jsonl"
"""Answers of the classifier that learned from half of the training rows: no system, but what says whether more rows help."""

SHOWN_ROWS = 8
"""Rows whose answers stand side by side in the web UI."""


@dataclass(frozen=True)
class Sources:
    """The artifacts that predictions are made from, and the version that answers now."""

    dataset: Artifact
    base_model: Artifact
    baselines: Artifact
    adapter: Artifact
    retrieval_index: Artifact
    champion: Champion | None = None


@dataclass(frozen=True)
class Cost:
    """What the answers of one system took. Tokens are None for systems that are no language model; `latencies` are seconds of single
    answers, one after the other."""

    system: str
    rows: int
    seconds: float
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    latencies: tuple[float, ...] = ()

    @property
    def seconds_per_1000(self) -> float:
        return 1000 * self.seconds / self.rows


def build_predictions(
    context: "dg.AssetExecutionContext", compute: "Compute", spec: UseCaseSpec, sources: Sources, folder: Path, state: Path
) -> Built:
    """Write `<system>.jsonl` for every system, and `costs.json`; where two answers are compared, `<system>.weighed.jsonl`; where the
    dataset has fresh rows, `fresh/<system>.jsonl`; where a version answers now, `champion.json`.

    Args:
        state: stays when the work breaks off.

    Raises:
        NoTestRows, DuplicatedRows, WrongReference: the dataset has no test set that could be judged.
        NoLikelihoods: a criterion asks how likely given answers are, and nothing can tell.
        UnusableAnswers: the program left a row without an answer, or answered otherwise than asked.
    """
    task = read_task(spec)
    test = judgeable(read_examples(sources.dataset.file("test.jsonl")), task, where=f"{spec.name}/dataset")
    data = Data(train=read_examples(sources.dataset.file("train.jsonl")), rows=test)
    scratch = folder / "program"
    scratch.mkdir()
    index, rows = read_index(sources.retrieval_index), embedded(context, compute, scratch / "embed", test)
    prompts = _prompts(spec, task, sources, data, index=index, rows=rows, folder=scratch)
    jobs = _jobs(spec, task, sources, data, prompts=prompts, folder=folder)
    jobs = decoded(jobs, spec, task, [example.completion for example in data.train])
    model = sources.base_model.file("model")
    if asks_for_likelihood(spec.objective, task):
        weigh(context, compute, jobs, test, model=model, folder=folder, scratch=scratch / "likelihood")
    fresh = _on_fresh_rows(context, compute, spec, task, sources, jobs, index=index, train=data.train, folder=folder)
    result = predict(context, compute, model=model, jobs=[*jobs, *fresh], folder=scratch / "predict", replies=state / "replies")
    plain = [
        _plain_cost(name, cost, rows=len(test)) for name, cost in classified(data, rows, task=task, index=index, answers=folder).items()
    ]
    costs = [_majority(data, folder=folder), *plain, *_job_costs(result, jobs, looking=_looking(spec, rows.seconds))]
    # The program's own files hold absolute paths of this build.
    shutil.rmtree(scratch)
    _write_costs(folder / COSTS, costs, result, train_rows=len(data.train))
    keep_vectors(folder, train=index.train_vectors, test=rows.vectors)
    if sources.champion is not None:
        sources.champion.keep(folder)
    answer_by_half(data, rows, task=task, index=index, path=folder / HALF)
    answers = {cost.system: read_all_answers(folder / f"{cost.system}.jsonl", test) for cost in costs}
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
    return [Cost(**{**row, "latencies": tuple(row["latencies"])}) for row in kept["systems"]], kept["peak_memory_bytes"]


def _prompts(spec: UseCaseSpec, task: Task, sources: Sources, data: Data, *, index: Index, rows: Embedded, folder: Path) -> dict[str, Path]:
    """Files of what is asked: as it is, with as many passages as validation chose, and as the fine-tuned model was trained."""
    passages = sources.baselines.json(BASELINES)[PASSAGES]
    context_tokens = sources.base_model.json("base_model.json")["context_tokens"]
    found = index.looked_up(data.rows, rows.vectors, k=passages, room=room_for(spec, task, data.train, context_tokens=context_tokens))
    plain = write_prompts(folder / "prompts.jsonl", data.rows)
    trained = plain
    if spec.dataset.format.context == "retrieved":
        trained = write_prompts(folder / "trained.jsonl", read_examples(sources.retrieval_index.file("test.jsonl")))
    return {"plain": plain, RETRIEVAL: write_prompts(folder / f"{RETRIEVAL}.jsonl", found), FINE_TUNED: trained}


def _jobs(spec: UseCaseSpec, task: Task, sources: Sources, data: Data, *, prompts: Mapping[str, Path], folder: Path) -> list[PredictJob]:
    shots = read_shots(sources.baselines.file(SHOTS))
    limit = max_new_tokens([example.completion for example in data.train])
    untrained, trained = untrained_format(spec, task), trained_format(spec)

    def job(name: str, **fields: Any) -> PredictJob:
        return PredictJob(
            name=name,
            prompts=str(prompts.get(FINE_TUNED if name == CHAMPION else name, prompts["plain"])),
            output=str(folder / f"{name}.jsonl"),
            max_new_tokens=limit,
            timed_rows=spec.evaluation.timed_rows,
            **fields,
        )

    few_shot = [job(FEW_SHOT, format=untrained, shots=shots)] if shots else []
    tuned = {"format": trained, "adapter": str(sources.adapter.file("adapter"))}
    without = [job(WITHOUT_CONTEXT, **tuned)] if spec.dataset.format.context == "retrieved" else []
    answering = None if sources.champion is None else sources.champion.adapter
    champion = [] if answering is None else [job(CHAMPION, format=trained, adapter=str(answering.file("adapter")))]
    return [job(ZERO_SHOT, format=untrained), *few_shot, job(RETRIEVAL, format=untrained), *without, *champion, job(FINE_TUNED, **tuned)]


def _on_fresh_rows(
    context: "dg.AssetExecutionContext",
    compute: "Compute",
    spec: UseCaseSpec,
    task: Task,
    sources: Sources,
    jobs: Sequence[PredictJob],
    *,
    index: Index,
    train: Sequence[Example],
    folder: Path,
) -> list[PredictJob]:
    """Jobs on the fresh test set, if there is one; trained models get what the endpoint would look up for them."""
    rows = fresh_rows(sources.dataset, task, use_case=spec.name)
    if not rows:
        return []
    scratch = folder / "program"
    prompts = {"plain": write_prompts(scratch / "fresh.jsonl", rows)}
    if spec.dataset.format.context == "retrieved":
        vectors = embedded(context, compute, scratch / "embed_fresh", rows).vectors
        room = room_for(spec, task, train, context_tokens=sources.base_model.json("base_model.json")["context_tokens"])
        found = index.looked_up(rows, vectors, k=spec.dataset.format.passages, room=room)
        prompts |= dict.fromkeys((CHAMPION, FINE_TUNED), write_prompts(scratch / "fresh_looked_up.jsonl", found))
    return fresh_jobs(jobs, prompts, folder=folder)


def _looking(spec: UseCaseSpec, seconds: float) -> dict[str, float]:
    """Seconds that looking up takes of each answer; the search itself is below a millisecond, beside the embedding of the prompt."""
    return dict.fromkeys((RETRIEVAL, *([CHAMPION, FINE_TUNED] if spec.dataset.format.context == "retrieved" else [])), seconds)


def _job_costs(result: PredictResult, jobs: Sequence[PredictJob], *, looking: Mapping[str, float]) -> list[Cost]:
    """In the order of the jobs."""
    done = {job.name: job for job in result.jobs}
    return [
        Cost(
            job.name,
            rows=(one := done[job.name]).rows,
            seconds=one.seconds + one.rows * looking.get(job.name, 0.0),
            prompt_tokens=one.prompt_tokens,
            new_tokens=one.new_tokens,
            latencies=tuple(seconds + looking.get(job.name, 0.0) for seconds in one.latencies),
        )
        for job in jobs
    ]


def _majority(data: Data, *, folder: Path) -> Cost:
    write_answers(folder / "majority.jsonl", data.rows, [majority_answer(data.train)] * len(data.rows))
    return Cost("majority", rows=len(data.rows), seconds=0.0)


def _plain_cost(name: str, each: OneCost, *, rows: int) -> Cost:
    return Cost(name, rows=rows, seconds=each.seconds * rows)


def _write_costs(path: Path, costs: Sequence[Cost], result: PredictResult, *, train_rows: int) -> None:
    kept = {
        "train_rows": train_rows,
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
