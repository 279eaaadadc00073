"""One trial for one rung: trained by the training program's own code, then asked as in step 7, and scored row by row."""

import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fine_tune_pipeline.programs import predict, train
from fine_tune_pipeline.programs.models import free_memory, load_tokenizer
from fine_tune_pipeline.programs.named_work import named
from fine_tune_pipeline.programs.reporting import RESULT, Reporter, finish
from fine_tune_pipeline.programs.requests import PredictJob, PredictRequest, TrainRequest, TrainResult
from fine_tune_pipeline.programs.rows import read_rows, write_rows
from fine_tune_pipeline.programs.search_requests import RungRecord, SearchRequest, TrialRecord
from fine_tune_pipeline.programs.searching.space import training
from fine_tune_pipeline.programs.training.batches import TEXT_FIELDS, over_long
from fine_tune_pipeline.programs.training.preemption import Preemption
from fine_tune_pipeline.programs.training.preference_rows import learned_rows
from fine_tune_pipeline.programs.training.steadiness import Diverged
from fine_tune_pipeline.programs.training.step_gradient import OutOfMemory
from fine_tune_pipeline.programs.training.targets import RankTooLarge
from fine_tune_pipeline.programs.training.trainer import LossNotFinite

ASKED = ("id", "prompt", "history", "role", "tools")
"""What a row is asked with."""

ANSWERS, PROMPTS = "answers.jsonl", "prompts.jsonl"

RECORD, REQUEST, LIVE = "record.json", "request.json", "live-*.jsonl"
"""Of a trial that runs in a program of its own: its answer, what it is asked, and what it tells while it runs."""

HOPELESS = (Diverged, LossNotFinite, OutOfMemory, RankTooLarge)
"""What ends a trial and not the search: its point is no good here."""


@dataclass(frozen=True)
class Judged:
    """The validation rows that every trial answers, and their right answers, in the order of their ids."""

    prompts: Path
    references: dict[str, str]
    score: Callable[[str, str], float]

    @classmethod
    def of(cls, request: SearchRequest, *, folder: Path | None = None) -> "Judged":
        """The same sample for all trials of a search; `folder` gets the file of prompts, that of the search by default."""
        rows = read_rows(request.plan.validation, text_fields=TEXT_FIELDS, unique=("id",))
        chosen = sorted(random.Random(0).sample(rows, min(request.rows, len(rows))), key=lambda row: row["id"])
        path = (folder or Path(request.output)) / PROMPTS
        write_rows(path, ({name: row[name] for name in ASKED if name in row} for row in chosen))
        references = {row["id"]: row["completion"] for row in chosen}
        return cls(path, references, named(request.scoring.function)(request.scoring.settings))

    def scores(self, answers: Path) -> list[float]:
        """Of each row."""
        texts = {row["id"]: row["text"] for row in read_rows(answers, text_fields=("id", "text"))}
        return [self.score(texts[id], reference) for id, reference in self.references.items()]


def climbed(
    request: SearchRequest, trial: TrialRecord, rung: int, *, judged: Judged, folder: Path, reporter: Reporter, preemption: Preemption
) -> RungRecord:
    """The record of a trial that was trained for a rung and judged; of one that cannot be trained so, why.

    Args:
        folder: of this trial and rung; an earlier try may have left a checkpoint, or a finished training, in it.

    Raises:
        Preempted: a signal has come.
    """
    share, start = request.rungs[rung], time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    asked, left_out = _fitting(training(request, trial.parameters, share=share, output=folder))
    try:
        result = _trained(asked, reporter, preemption)
    except HOPELESS as error:
        free_memory()
        # The first line says what it was; the rest, what to change, is no news to a search.
        said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return RungRecord(rung=rung, share=share, score=None, failed=said, seconds=time.monotonic() - start, left_out=left_out)
    free_memory()
    trained, start = max(time.monotonic() - start, result.seconds), time.monotonic()
    _answer(request, asked, result, judged, folder=folder, reporter=reporter)
    scores = judged.scores(folder / ANSWERS)
    answering = time.monotonic() - start
    free_memory()
    return RungRecord(
        rung=rung,
        share=share,
        score=fmean(scores),
        scores=tuple(scores),
        seconds=trained + answering,
        answering_seconds=answering,
        steps=result.steps,
        rows=result.rows,
        tokens=result.tokens,
        trainable_parameters=result.trainable_parameters,
        validation_loss=result.kept_loss,
        left_out=left_out,
    )


def tidy(folder: Path) -> None:
    """Once a rung is written down: its curve and its numbers stay, weights and checkpoints go."""
    for name in (train.CHECKPOINTS, "adapter"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("train.jsonl", "validation.jsonl", train.REFERENCES, PROMPTS, REQUEST, RECORD, *(path.name for path in folder.glob(LIVE))):
        (folder / name).unlink(missing_ok=True)


def curve_numbers(folder: Path, rung: int) -> list[tuple[int, dict[str, float]]]:
    """Loss and rate of every step, for tracking."""
    path = folder / "curve.jsonl"
    points: Sequence[dict[str, Any]] = read_rows(path, text_fields=()) if path.exists() else ()
    return [(int(one["step"]), {f"rung_{rung + 1}/{name}": float(one[name]) for name in ("loss", "learning_rate")}) for one in points]


def _trained(request: TrainRequest, reporter: Reporter, preemption: Preemption) -> TrainResult:
    if train.answered(request):
        return TrainResult.read(Path(request.output) / RESULT)
    result = train.run(request, reporter, preemption)
    finish(request, result)
    return result


def _fitting(request: TrainRequest) -> tuple[TrainRequest, tuple[str, ...]]:
    """Without the rows that have more tokens than may be: step 5, which names them, comes after this."""
    tokenizer = load_tokenizer(request.model)
    files, gone = {}, []
    for name in ("train", "validation"):
        source = getattr(request, name)
        examples = read_rows(source, text_fields=TEXT_FIELDS, unique=("id",))
        rows = learned_rows(
            examples, source=source, tokenizer=tokenizer, format=request.format, hyperparameters=request.hyperparameters
        ).rows
        long = set(over_long(rows, max_length=request.hyperparameters.max_length))
        if long:
            files[name] = str(Path(request.output) / f"{name}.jsonl")
            write_rows(files[name], (row for row in examples if row["id"] not in long))
            gone += sorted(long)
    return request.model_copy(update=files), tuple(gone)


def _answer(request: SearchRequest, asked: TrainRequest, result: TrainResult, judged: Judged, *, folder: Path, reporter: Reporter) -> None:
    job = PredictJob(
        name="validation rows",
        prompts=str(judged.prompts),
        output=str(folder / ANSWERS),
        format=asked.format,
        adapter=result.adapter,
        max_new_tokens=request.scoring.max_new_tokens,
    )
    place = asked.placement
    wanted = PredictRequest(
        output=str(folder), model=asked.model, jobs=(job,), threads=place.threads, dtype=place.dtype, device=place.device
    )
    predict.run(wanted, reporter)
