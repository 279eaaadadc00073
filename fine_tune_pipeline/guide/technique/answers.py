"""Every system that needs no training answers the validation rows; the base model does so in one program."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.decoding import decoded
from fine_tune_pipeline.guide.technique.index import Index, room_for
from fine_tune_pipeline.guide.technique.rows import Data
from fine_tune_pipeline.guide.technique.systems import (
    CLASSIFIER,
    FEW_SHOT,
    RETRIEVAL,
    WORD_CLASSIFIER,
    ZERO_SHOT,
    Embedded,
    choose_shots,
    classifier_answers,
    majority_answer,
    max_new_tokens,
    predict,
    untrained_format,
    word_classifier_answers,
    write_answers,
    write_prompts,
)
from fine_tune_pipeline.guide.technique.workload import FRAME_TOKENS, most_tokens
from fine_tune_pipeline.programs.requests import PredictedJob, PredictJob, Shot
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute


@dataclass(frozen=True)
class Cost:
    """Of answering one row. Tokens are 0 for systems that are no language model."""

    seconds: float
    prompt_tokens: float = 0.0
    new_tokens: float = 0.0


@dataclass(frozen=True)
class Bench:
    """One comparison: the rows, the task, what can be looked up, where answers go (`<answers>/<system>.jsonl`), a folder for programs that
    goes afterwards, and one for a provider's replies that stays when the work breaks off."""

    spec: UseCaseSpec
    task: Task
    data: Data
    index: Index
    answers: Path
    work: Path
    replies: Path


def shot_sets(data: Data, spec: UseCaseSpec, task: Task, *, context_tokens: int) -> dict[int, tuple[Shot, ...]]:
    """Worked examples for each number that the use case asks for; numbers whose prompt the base model could not read are left out.

    When none is left there is one set, empty: few-shot is then zero-shot.
    """
    room = room_for(spec, task, data.train, context_tokens=context_tokens) - max(most_tokens(row.question) for row in data.rows)
    sets = {k: choose_shots(data.train, k, task=task, seed=spec.dataset.split.seed) for k in sorted(set(spec.evaluation.few_shot))}
    fitting = {k: shots for k, shots in sets.items() if sum(_shot_tokens(shot) for shot in shots) <= room}
    return fitting or {0: ()}


def answer_plainly(bench: Bench, rows: Embedded) -> dict[str, Cost]:
    """Majority and, where the task has classes, the classifiers."""
    write_answers(bench.answers / "majority.jsonl", bench.data.rows, [majority_answer(bench.data.train)] * len(bench.data.rows))
    return {"majority": Cost(seconds=0.0), **classified(bench.data, rows, task=bench.task, index=bench.index, answers=bench.answers)}


def classified(data: Data, rows: Embedded, *, task: Task, index: Index, answers: Path) -> dict[str, Cost]:
    """Answers of both classifiers, and what one answer costs, learning aside; none when the task has no classes."""
    if not task.classes:
        return {}
    assert index.train_vectors is not None
    started = time.monotonic()
    by_words = word_classifier_answers(data.train, data.rows, task=task)
    between = time.monotonic()
    by_meaning = classifier_answers(data.train, data.rows, task=task, train_vectors=index.train_vectors, row_vectors=rows.vectors)
    ended = time.monotonic()
    assert by_words is not None
    assert by_meaning is not None
    write_answers(answers / f"{WORD_CLASSIFIER}.jsonl", data.rows, by_words)
    write_answers(answers / f"{CLASSIFIER}.jsonl", data.rows, by_meaning)
    # Of learning and answering together, the share of the rows that are answered.
    share = 1 / (len(data.train) + len(data.rows))
    return {
        WORD_CLASSIFIER: Cost(seconds=(between - started) * share),
        CLASSIFIER: Cost(seconds=rows.seconds + (ended - between) * share),
    }


def answer_by_half(data: Data, rows: Embedded, *, task: Task, index: Index, path: Path) -> None:
    """Answers of the classifier that learned from every second training row, where the task has classes and there are enough rows."""
    if not task.classes or len(data.train) < 2 * len(task.classes):
        return
    assert index.train_vectors is not None
    half = data.train[::2]
    found = classifier_answers(half, data.rows, task=task, train_vectors=index.train_vectors[::2], row_vectors=rows.vectors)
    assert found is not None
    write_answers(path, data.rows, found)


def answer_prompted(
    context: "dg.AssetExecutionContext",
    compute: "Compute",
    bench: Bench,
    rows: Embedded,
    *,
    model: Path,
    shots: dict[int, tuple[Shot, ...]],
    context_tokens: int,
) -> dict[str, Cost]:
    """The base model alone, with worked examples and with what was looked up, in one program; systems are named `base_few_shot_<k>` and
    `base_retrieval_<k>`."""
    bench.work.mkdir(exist_ok=True)
    data = bench.data
    prompts = write_prompts(bench.work / "prompts.jsonl", data.rows)
    longest = max_new_tokens([example.completion for example in data.train])

    def job(name: str, prompts: Path, chosen: tuple[Shot, ...] = ()) -> PredictJob:
        return PredictJob(
            name=name, prompts=str(prompts), output=str(bench.answers / f"{name}.jsonl"), shots=chosen, max_new_tokens=longest,
            format=untrained_format(bench.spec, bench.task),
        )  # fmt: skip

    jobs = [job(ZERO_SHOT, prompts), *(job(f"{FEW_SHOT}_{k}", prompts, chosen) for k, chosen in shots.items())]
    room = room_for(bench.spec, bench.task, data.train, context_tokens=context_tokens)
    looking = {}
    for k in sorted(set(bench.spec.evaluation.passages)):
        started, name = time.monotonic(), f"{RETRIEVAL}_{k}"
        found = bench.index.looked_up(data.rows, rows.vectors, k=k, room=room)
        looking[name] = rows.seconds + (time.monotonic() - started) / len(data.rows)
        jobs.append(job(name, write_prompts(bench.work / f"{name}.jsonl", found)))
    jobs = decoded(jobs, bench.spec, bench.task, [example.completion for example in data.train])
    result = predict(context, compute, model=model, jobs=jobs, folder=bench.work / "predict", replies=bench.replies)
    costs = {job.name: _cost(job) for job in result.jobs}
    return {name: replace(cost, seconds=cost.seconds + looking.get(name, 0.0)) for name, cost in costs.items()}


def _cost(job: PredictedJob) -> Cost:
    return Cost(seconds=job.seconds / job.rows, prompt_tokens=job.prompt_tokens / job.rows, new_tokens=job.new_tokens / job.rows)


def _shot_tokens(shot: Shot) -> int:
    return most_tokens(shot.prompt) + most_tokens(shot.completion) + FRAME_TOKENS
