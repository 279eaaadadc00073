"""Every system that needs no training answers the validation rows; the base model does so in one program."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.artifacts.examples import Example, read_examples
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.decoding import decoded
from fine_tune_pipeline.guide.technique.systems import (
    choose_shots,
    classifier_answers,
    embed_rows,
    majority_answer,
    max_new_tokens,
    predict,
    untrained_format,
    write_answers,
    write_prompts,
)
from fine_tune_pipeline.guide.technique.workload import FRAME_TOKENS, most_tokens
from fine_tune_pipeline.programs.requests import PredictedJob, PredictJob, Shot
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

ZERO_SHOT = "base_zero_shot"
FEW_SHOT = "base_few_shot"


@dataclass(frozen=True)
class Data:
    """What the systems see: training examples to learn or quote from, validation rows to answer."""

    train: list[Example]
    rows: list[Example]


@dataclass(frozen=True)
class Cost:
    """Of answering one row. Tokens are 0 for systems that are no language model."""

    seconds: float
    prompt_tokens: float = 0.0
    new_tokens: float = 0.0


@dataclass(frozen=True)
class Bench:
    """One comparison: the rows, the task, where answers go (`<answers>/<system>.jsonl`), a folder for programs that goes afterwards, and
    one for a provider's replies that stays when the work breaks off."""

    spec: UseCaseSpec
    task: Task
    data: Data
    answers: Path
    work: Path
    replies: Path


def read_data(dataset: Artifact, spec: UseCaseSpec) -> Data:
    """The training set, and at most `evaluation.validation_rows` validation rows, drawn by the split's seed."""
    rows = read_examples(dataset.file("validation.jsonl"))
    limit = spec.evaluation.validation_rows
    drawn = random.Random(spec.dataset.split.seed).sample(rows, limit) if len(rows) > limit else rows
    return Data(train=read_examples(dataset.file("train.jsonl")), rows=drawn)


def shot_sets(data: Data, spec: UseCaseSpec, task: Task, *, context_tokens: int) -> dict[int, tuple[Shot, ...]]:
    """Worked examples for each number that the use case asks for; numbers whose prompt the base model could not read are left out.

    When none is left there is one set, empty: few-shot is then zero-shot.
    """
    fixed = most_tokens(untrained_format(spec, task).instruction) + max_new_tokens([example.completion for example in data.train])
    room = context_tokens - fixed - max(most_tokens(row.question) for row in data.rows) - FRAME_TOKENS
    sets = {k: choose_shots(data.train, k, task=task, seed=spec.dataset.split.seed) for k in sorted(set(spec.evaluation.few_shot))}
    fitting = {k: shots for k, shots in sets.items() if sum(_shot_tokens(shot) for shot in shots) <= room}
    return fitting or {0: ()}


def answer_plainly(context: "dg.AssetExecutionContext", compute: "Compute", bench: Bench) -> dict[str, Cost]:
    """Majority and, where the task has classes, the classifier."""
    train, rows = bench.data.train, bench.data.rows
    write_answers(bench.answers / "majority.jsonl", rows, [majority_answer(train)] * len(rows))
    costs = {"majority": Cost(seconds=0.0)}
    if not bench.task.classes:
        return costs
    started = time.monotonic()
    vectors = embed_rows(context, compute, bench.work / "embed", [*train, *rows])
    found = classifier_answers(train, rows, task=bench.task, train_vectors=vectors[: len(train)], row_vectors=vectors[len(train) :])
    assert found is not None
    write_answers(bench.answers / "classifier.jsonl", rows, found)
    # The encoder's start and the fit are in it: an upper figure for one answer.
    return {**costs, "classifier": Cost(seconds=(time.monotonic() - started) / len(vectors))}


def answer_prompted(
    context: "dg.AssetExecutionContext", compute: "Compute", bench: Bench, *, model: Path, shots: dict[int, tuple[Shot, ...]]
) -> dict[str, Cost]:
    """The base model without and with worked examples, in one program; systems are named `base_few_shot_<k>`."""
    bench.work.mkdir(exist_ok=True)
    prompts = write_prompts(bench.work / "prompts.jsonl", bench.data.rows)
    longest = max_new_tokens([example.completion for example in bench.data.train])
    systems = {ZERO_SHOT: (), **{f"{FEW_SHOT}_{k}": chosen for k, chosen in shots.items()}}
    jobs = [
        PredictJob(
            name=name,
            prompts=str(prompts),
            output=str(bench.answers / f"{name}.jsonl"),
            format=untrained_format(bench.spec, bench.task),
            shots=chosen,
            max_new_tokens=longest,
        )
        for name, chosen in systems.items()
    ]
    jobs = decoded(jobs, bench.spec, bench.task, [example.completion for example in bench.data.train])
    result = predict(context, compute, model=model, jobs=jobs, folder=bench.work / "predict", replies=bench.replies)
    return {job.name: _cost(job) for job in result.jobs}


def _cost(job: PredictedJob) -> Cost:
    return Cost(seconds=job.seconds / job.rows, prompt_tokens=job.prompt_tokens / job.rows, new_tokens=job.new_tokens / job.rows)


def _shot_tokens(shot: Shot) -> int:
    return most_tokens(shot.prompt) + most_tokens(shot.completion) + FRAME_TOKENS
