"""The tried training of preflight: two real steps on the longest batch, what was learned saved, loaded as the endpoint does, and asked.

Mistakes that only a model shows are looked for on the way, on a few short rows.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fine_tune_pipeline.programs.machine import memory
from fine_tune_pipeline.programs.mistakes.checklist import Checklist, not_applicable, wrong
from fine_tune_pipeline.programs.mistakes.learning import dtype_overflow, frozen_experts, overflowed, target_modules_match_nothing
from fine_tune_pipeline.programs.mistakes.serving import (
    VERSION,
    adapter_not_loading,
    first_answer,
    merge_changes_answers,
    serving_dtype,
    strengthen,
)
from fine_tune_pipeline.programs.mistakes.steps import checkpoint_not_resumable, gradient_accumulation
from fine_tune_pipeline.programs.mistakes.text import generation_never_stops, saved_tokenizer
from fine_tune_pipeline.programs.mistakes.texts import Texts
from fine_tune_pipeline.programs.models import free_memory, is_peft_folder, load_tokenizer, peak_memory_bytes, weight_files
from fine_tune_pipeline.programs.preflight_requests import PreflightRequest
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import Prediction
from fine_tune_pipeline.programs.serving.served_models import ServedModels
from fine_tune_pipeline.programs.training.adapters import save, trainable_parameters
from fine_tune_pipeline.programs.training.batches import Collate, Row
from fine_tune_pipeline.programs.training.compiled_layers import NotCompiled
from fine_tune_pipeline.programs.training.recipe import pad_id
from fine_tune_pipeline.programs.training.step_gradient import OutOfMemory
from fine_tune_pipeline.programs.training.targets import (
    ExpertsNotAdapted,
    NotBesideParameters,
    RankTooLarge,
    TargetNotFound,
    WouldRouteAnew,
)
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer, LossNotFinite, LossNotTheModels, build_trainer

GIB = 2**30

ASKED = 3
"""Prompts of which the first token of the answer is compared."""

SHORT_ROWS = 4
"""Of the shortest rows, for what only must be seen to happen."""

ANSWER_TOKENS = 8
"""Of the tried answer: it shows that generation works, not what the model will know."""

SAVED_BYTES = 4 * GIB
"""A whole model larger than this is not written and read for a try: it would take longer than the steps."""


@dataclass(frozen=True)
class Step:
    """An optimizer step: `tokens` without padding, `loss` in nats per labelled token, `written_bytes` of the weights to save."""

    seconds: float
    tokens: int
    loss: float
    written_bytes: int


@dataclass(frozen=True)
class Tried:
    """What the try gave; `peak_bytes` is the most memory that the steps took."""

    peak_bytes: int
    step: Step | None = None
    answer: Prediction | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Kept:
    """What is left of the trained model when it is gone: its folder, and its answers to the asked prompts."""

    folder: Path
    probabilities: Tensor


class StepClock(TrainerCallback):
    """Times every optimizer step, batches included."""

    def __init__(self, trainer: CompletionTrainer) -> None:
        self.steps: list[Step] = []
        self._trainer = trainer
        self._mark = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        self._mark = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        seconds = time.perf_counter() - self._mark
        totals = self._trainer.take_totals()
        # Adapters and fully trained models are written in float32.
        written = 4 * trainable_parameters(self._trainer.trained)
        assert totals is not None, "without endurance no step is skipped"
        self.steps.append(Step(seconds, totals.tokens, totals.loss, written))


def try_training(request: PreflightRequest, texts: Texts, *, checks: Checklist, reporter: Reporter) -> Tried:
    """Train, save, load and ask; nothing stays in `request.output`."""
    longest = longest_rows(texts.learned, request=request)
    if not longest or texts.tokenizer is None:
        return Tried(peak_bytes=peak_memory_bytes())
    reporter.log(f"preflight: two training steps on the {len(longest)} longest rows, the second one timed")
    scratch = Path(request.output) / "tried"
    scratch.mkdir()
    try:
        tried, kept = _train(request, texts, longest, scratch=scratch, tokenizer=texts.tokenizer, checks=checks)
        free_memory()
        if kept is None:
            return tried
        reporter.log("preflight: the trained weights are loaded as the endpoint loads them")
        return replace(tried, answer=_serve(request, texts, kept, tokenizer=texts.tokenizer, checks=checks))
    finally:
        shutil.rmtree(scratch)


def longest_rows(rows: Sequence[Row], *, request: PreflightRequest) -> list[Row]:
    """The rows of one optimizer step that needs the most memory and time: the longest that training would accept."""
    wanted = request.hyperparameters
    return sorted(_fitting(rows, request=request), key=lambda row: -row.length)[: wanted.effective_batch]


def _fitting(rows: Sequence[Row], *, request: PreflightRequest) -> list[Row]:
    return [row for row in rows if row.length <= request.hyperparameters.max_length and row.labelled]


def _short(texts: Texts, *, request: PreflightRequest) -> list[Row]:
    return sorted(_fitting(texts.learned, request=request), key=lambda row: row.length)[:SHORT_ROWS]


def _train(
    request: PreflightRequest,
    texts: Texts,
    rows: Sequence[Row],
    *,
    scratch: Path,
    tokenizer: PreTrainedTokenizerBase,
    checks: Checklist,
) -> tuple[Tried, _Kept | None]:
    """Two real steps: the loss of the first, the time of the second, since the first also warms up. Then the small ones."""
    problems: list[str] = []
    try:
        trainer = build_trainer(request, rows=rows, tokenizer=tokenizer, max_steps=2, also=_short(texts, request=request))
        clock = StepClock(trainer)
        trainer.add_callback(clock)
        trainer.train()
    except TargetNotFound as error:
        checks.set("target_modules_match_nothing", wrong(str(error), "name modules that the model has, or write all-linear"))
    except LossNotFinite as error:
        free_memory()
        cause, collate = error, Collate(pad_id=pad_id(tokenizer), flat=False)
        checks.look(
            "dtype_overflow",
            lambda: overflowed(cause, rows[:2], collate=collate, recipe=request),
        )
    except ExpertsNotAdapted as error:
        checks.set("frozen_experts", wrong(str(error), "take the pinned version of peft (constraints.txt), or leave technique.experts out"))
    except (LossNotTheModels, NotBesideParameters, NotCompiled, RankTooLarge, WouldRouteAnew) as error:
        problems.append(str(error))
    except OutOfMemory as error:
        tokens = sum(len(row.input_ids) for row in rows)
        problems.append(
            f"a step of {len(rows)} rows and {tokens} tokens does not fit into the memory of {request.placement.device} ({error}); "
            "lower placement.micro_batch, turn gradient_checkpointing on, or take qlora or a smaller base model"
        )
    else:
        tried = Tried(peak_bytes=peak_memory_bytes(), step=replace(clock.steps[-1], loss=clock.steps[0].loss))
        _look(request, trainer, texts, tokenizer=tokenizer, scratch=scratch, checks=checks)
        return _saved(tried, trainer, texts, tokenizer=tokenizer, scratch=scratch, checks=checks)
    return Tried(peak_bytes=peak_memory_bytes(), problems=tuple(problems)), None


def _look(
    request: PreflightRequest,
    trainer: CompletionTrainer,
    texts: Texts,
    *,
    tokenizer: PreTrainedTokenizerBase,
    scratch: Path,
    checks: Checklist,
) -> None:
    model, technique = trainer.trained, request.technique
    short = _short(texts, request=request)
    # The longest rows and their optimizer's state are done with; the small trainers make their own.
    trainer.optimizer = None
    checks.look(
        "generation_never_stops", lambda: generation_never_stops(texts.learned, model=model, tokenizer=tokenizer, format=request.format)
    )
    checks.look("target_modules_match_nothing", lambda: target_modules_match_nothing(model, technique=technique))
    checks.look("frozen_experts", lambda: frozen_experts(model, technique=technique))
    checks.look("dtype_overflow", lambda: dtype_overflow(model, short[:2], collate=trainer.collate, recipe=request))
    checks.look("gradient_accumulation", lambda: gradient_accumulation(trainer, short, tokenizer=tokenizer))
    checks.look(
        "checkpoint_not_resumable",
        lambda: checkpoint_not_resumable(trainer, short, tokenizer=tokenizer, scratch=scratch / "checkpoints"),
    )


def _saved(
    tried: Tried, trainer: CompletionTrainer, texts: Texts, *, tokenizer: PreTrainedTokenizerBase, scratch: Path, checks: Checklist
) -> tuple[Tried, _Kept | None]:
    """Write what was learned, or say why not."""
    assert tried.step is not None
    if tried.step.written_bytes > SAVED_BYTES:
        why = not_applicable(f"the whole model has {tried.step.written_bytes / GIB:.1f} GiB, too much to write for a try")
        for id in ("adapter_not_loading", "merge_changes_answers"):
            checks.set(id, why)
        return tried, None
    probabilities = strengthen(trainer, _asked(texts))
    folder = scratch / "adapter"
    try:
        save(trainer.trained, folder, tokenizer=tokenizer)
    except (OSError, SafetensorError) as error:
        megabytes = tried.step.written_bytes / 2**20
        problem = (
            f"the trained weights ({megabytes:.1f} MiB) cannot be written to {trainer.recipe.output} ({error}); "
            "make room there, raise the limit, or put the store elsewhere"
        )
        return replace(tried, problems=(*tried.problems, problem)), None
    return tried, _Kept(folder, probabilities)


def _serve(
    request: PreflightRequest, texts: Texts, kept: _Kept, *, tokenizer: PreTrainedTokenizerBase, checks: Checklist
) -> Prediction | None:
    dtype = serving_dtype(request.placement)
    if why := _no_room(request, kept):
        for id in ("adapter_not_loading", "merge_changes_answers"):
            checks.set(id, not_applicable(why))
        return None
    if not is_peft_folder(kept.folder) and (verdict := saved_tokenizer(load_tokenizer(kept.folder), base=tokenizer)):
        checks.set("chat_template", verdict)
    served = ServedModels(Path(request.model), base_name="base", format=request.format, dtype=dtype, device=request.placement.device)
    prompts = _asked(texts)
    loads = checks.look(
        "adapter_not_loading",
        lambda: adapter_not_loading(
            served,
            kept.folder,
            trained=kept.probabilities,
            prompts=prompts,
            technique=request.technique,
            dtype=request.placement.dtype,
        ),
    )
    if VERSION not in served.names:
        assert not loads
        return None
    row = texts.parts[_held_out(texts)][0]
    written = first_answer(served, row.input_ids[: row.prompt_tokens], new_tokens=ANSWER_TOKENS)
    checks.look("merge_changes_answers", lambda: merge_changes_answers(served, prompts=prompts))
    return Prediction(id=row.id, text=written.text, tokens=written.tokens, logprob=written.logprob, finished=written.finished)


def _no_room(request: PreflightRequest, kept: _Kept) -> str | None:
    """Why the base model is not loaded a second time; the first is gone by now."""
    files = [*weight_files(request.model), *weight_files(kept.folder)]
    # Files are often in half the bytes of float32.
    needed = 2 * sum(path.stat().st_size for path in files)
    available = memory(request.placement.device).available
    if needed <= available:
        return None
    return f"the served model may need {needed / GIB:.1f} GiB of memory, {available / GIB:.1f} GiB are free"


def _held_out(texts: Texts) -> str:
    return "validation" if "validation" in texts.parts else "train"


def _asked(texts: Texts) -> list[list[int]]:
    """The shortest prompts, of rows that are not learned from if there are any."""
    rows = sorted(texts.parts[_held_out(texts)], key=lambda row: row.prompt_tokens)
    return [row.input_ids[: row.prompt_tokens] for row in rows[:ASKED]]
