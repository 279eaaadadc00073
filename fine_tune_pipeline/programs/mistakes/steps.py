"""Mistakes in how steps are made, seen by making small ones with the trainer itself: in micro-batches, and after a break."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fine_tune_pipeline.programs.mistakes.checklist import Verdict, fine, not_applicable, wrong
from fine_tune_pipeline.programs.requests import CheckpointPolicy, Precision
from fine_tune_pipeline.programs.training.adapters import trainable_parameters
from fine_tune_pipeline.programs.training.batches import IGNORED, Row
from fine_tune_pipeline.programs.training.checkpoints import Checkpoints
from fine_tune_pipeline.programs.training.curve import CurveFile
from fine_tune_pipeline.programs.training.keeping import Keeper
from fine_tune_pipeline.programs.training.progress import Progress
from fine_tune_pipeline.programs.training.recipe import Recipe
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer

COMPARED_NUMBERS = 50_000_000
"""Of the gradient that are compared, 200 MB: all of an adapter, the first layers of a whole model."""

CHECKPOINT_BYTES = 2**30
"""A larger checkpoint is not written for a check: an adapter's is far smaller, that of a whole model three times its weights."""

NEAR: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 5e-2}
"""Relative difference that the order of a sum makes; a wrong weight of a micro-batch makes tenths."""

STEP_ROWS = 2


class _Gradient(TrainerCallback):
    """Keeps the gradient of a step as the optimizer is given it."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **event: object,
    ) -> None:
        assert model is not None
        left = COMPARED_NUMBERS
        for parameter in model.parameters():
            if parameter.grad is not None and parameter.grad.numel() <= left:
                self.parts.append(parameter.grad.detach().float().clone())
                left -= parameter.grad.numel()


class _Checkpoints(TrainerCallback):
    """Copies what training has after each step."""

    def __init__(self) -> None:
        self.weights: list[list[Tensor]] = []

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **event: object,
    ) -> None:
        assert model is not None
        self.weights.append([parameter.detach().clone() for parameter in model.parameters() if parameter.requires_grad])


def gradient_accumulation(trained: CompletionTrainer, rows: Sequence[Row], *, tokenizer: PreTrainedTokenizerBase) -> Verdict:
    """One step of the rows at once against the same step row by row, as the optimizer would be given it."""
    if len(rows) < 2:
        return not_applicable("one row only: nothing to accumulate")
    rows = _uneven(rows)
    with _without_dropout(trained.trained):
        whole = _gradient(trained, rows, micro_batch=len(rows), tokenizer=tokenizer)
        parts = _gradient(trained, rows, micro_batch=1, tokenizer=tokenizer)
    norm = _norm(whole)
    difference = _norm([one - other for one, other in zip(whole, parts, strict=True)]) / norm if norm else 0.0
    labels = ", ".join(str(row.labelled) for row in rows)
    seen = f"the gradient of {len(rows)} rows ({labels} labels) differs by {difference:.1e} of its length when they go one by one"
    if difference > NEAR[trained.recipe.placement.dtype]:
        return wrong(seen, "take the pinned versions of transformers and trl (constraints.txt), or placement.micro_batch = effective_batch")
    return fine(seen)


def checkpoint_not_resumable(
    trained: CompletionTrainer, rows: Sequence[Row], *, tokenizer: PreTrainedTokenizerBase, scratch: Path
) -> Verdict:
    """Two steps, then the second once more from the checkpoint of the first: weights, optimizer, schedule and place in the data."""
    size = 12 * trainable_parameters(trained.trained)
    if size > CHECKPOINT_BYTES:
        return not_applicable(f"a checkpoint has {size / 2**30:.1f} GiB, too much to write for a check")
    if len(rows) <= STEP_ROWS:
        return not_applicable(f"{len(rows)} rows make no two steps")
    said: list[str] = []
    through = _two_steps(trained, rows, tokenizer=tokenizer, output=scratch, resume=None, say=said.append)
    checkpoints = Checkpoints(scratch, keep=1).all()
    if not checkpoints:
        return wrong("; ".join(said), "make room there, or put the store elsewhere")
    (checkpoint,) = checkpoints
    try:
        resumed = _two_steps(trained, rows, tokenizer=tokenizer, output=scratch, resume=checkpoint, say=said.append)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        return wrong(f"it cannot be read back ({type(error).__name__}: {error})", _RESUME_CHANGE)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if len(resumed.weights) != 1:
        return wrong(f"from the checkpoint of the first of two steps it made {len(resumed.weights)} steps, want 1", _RESUME_CHANGE)
    before, wanted = through.weights
    went = _norm([one - other for one, other in zip(wanted, before, strict=True)])
    apart = _norm([one - other for one, other in zip(wanted, resumed.weights[0], strict=True)])
    seen = f"after a break before the second step, the weights are apart by {apart / went if went else 0.0:.1e} of that step"
    return fine(seen) if apart <= NEAR[trained.recipe.placement.dtype] * went else wrong(seen, _RESUME_CHANGE)


_RESUME_CHANGE = "take the pinned versions of transformers and peft (constraints.txt); until then start a broken training from its begin"


def _uneven(rows: Sequence[Row]) -> list[Row]:
    """Every other row learns its end token alone: a mean of means is right as long as all rows have as many labels."""
    only_end = [replace(row, labels=[IGNORED] * (len(row.labels) - 1) + row.labels[-1:]) for row in rows]
    return [row if place % 2 else short for place, (row, short) in enumerate(zip(rows, only_end, strict=True))]


def _gradient(trained: CompletionTrainer, rows: Sequence[Row], *, micro_batch: int, tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    seen = _Gradient()
    # A rate of 0 leaves the weights as they are; the gradient is not clipped, since that would hide a wrong length.
    recipe = _with(trained.recipe, micro_batch=micro_batch, effective_batch=len(rows), learning_rate=0.0, max_grad_norm=0.0)
    _again(trained, rows, recipe=recipe, tokenizer=tokenizer, max_steps=1, callback=seen).train()
    trained.trained.zero_grad(set_to_none=True)
    return seen.parts


def _two_steps(
    trained: CompletionTrainer,
    rows: Sequence[Row],
    *,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    resume: Path | None,
    say: Callable[[str], None],
) -> _Checkpoints:
    seen = _Checkpoints()
    recipe = _with(trained.recipe, output=str(output), micro_batch=STEP_ROWS, effective_batch=STEP_ROWS)
    trainer = _again(trained, rows[: 2 * STEP_ROWS], recipe=recipe, tokenizer=tokenizer, max_steps=2, callback=seen)
    if resume is None:
        trainer.add_callback(
            Keeper(
                trainer,
                Checkpoints(output, keep=1),
                policy=CheckpointPolicy(steps=1),
                curve=CurveFile(output / "curve.jsonl"),
                progress=lambda step: Progress(request_sha256="", step=step),
                say=say,
            )
        )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trained.trained.zero_grad(set_to_none=True)
    return seen


def _again(
    trained: CompletionTrainer,
    rows: Sequence[Row],
    *,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    max_steps: int,
    callback: TrainerCallback,
) -> CompletionTrainer:
    return CompletionTrainer(
        model=trained.trained,
        tokenizer=tokenizer,
        rows=rows,
        recipe=recipe,
        collate=trained.collate,
        loss=trained.loss,
        max_steps=max_steps,
        callbacks=[callback],
    )


def _with(
    recipe: Recipe,
    *,
    micro_batch: int,
    effective_batch: int,
    output: str | None = None,
    learning_rate: float | None = None,
    max_grad_norm: float | None = None,
) -> Recipe:
    changed = {"effective_batch": effective_batch, "learning_rate": learning_rate, "max_grad_norm": max_grad_norm}
    kept = {name: value for name, value in changed.items() if value is not None}
    return recipe.model_copy(
        update={
            "output": output or recipe.output,
            "hyperparameters": recipe.hyperparameters.model_copy(update=kept),
            "placement": recipe.placement.model_copy(update={"micro_batch": micro_batch}),
        }
    )


@contextmanager
def _without_dropout(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """The same numbers in every pass."""
    dropouts = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    try:
        for module, _ in dropouts:
            module.p = 0.0
        yield
    finally:
        for module, share in dropouts:
            module.p = share


def _norm(parts: Sequence[Tensor]) -> float:
    return float(torch.stack([part.norm().double() for part in parts]).norm()) if parts else 0.0
