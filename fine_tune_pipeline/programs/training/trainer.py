"""The trainer of this project: TRL's `SFTTrainer` with our batches, loss and schedule, through its public hooks. Shared with preflight."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.sft_trainer import SFTTrainer

from fine_tune_pipeline.programs.requests import Hyperparameters
from fine_tune_pipeline.programs.training.adapters import evaluate, load_base, with_technique
from fine_tune_pipeline.programs.training.batches import ROWS, Collate, Row, Steps, as_records, counted_labels, shown_ids
from fine_tune_pipeline.programs.training.compiled_layers import compiled_as_placed
from fine_tune_pipeline.programs.training.flat_rows import use_rows_attention
from fine_tune_pipeline.programs.training.losses import batch_nll
from fine_tune_pipeline.programs.training.optimizers import adamw
from fine_tune_pipeline.programs.training.preemption import Preemption
from fine_tune_pipeline.programs.training.preference_loss import loss_of
from fine_tune_pipeline.programs.training.recipe import Recipe, on_device, pad_id
from fine_tune_pipeline.programs.training.sharding import check_shardable, cut_when_loaded, number, sharded, weights
from fine_tune_pipeline.programs.training.steadiness import Diverged, Steadiness
from fine_tune_pipeline.programs.training.step_gradient import HALVINGS, StepGradient, StepTotals
from fine_tune_pipeline.programs.training.step_loss import CompletionLoss, StepLoss
from fine_tune_pipeline.programs.training.team import ALONE, Team
from fine_tune_pipeline.programs.training.trainer_arguments import trainer_arguments


class LossNotFinite(ArithmeticError):
    """The loss or its gradient is NaN or infinite; going on would destroy the weights."""


class LossNotTheModels(ValueError):
    """The model's own loss and the one computed here differ: the architecture does something unknown to this project."""


@dataclass(frozen=True)
class Skipped:
    """A step that was not learned from, and why."""

    step: int
    why: str


@dataclass
class Endurance:
    """What a training does to go on instead of failing. Without one, as in preflight, the first trouble is an error.

    Args:
        log: hears of everything that was done.
        rate_scale: of every learning rate, below 1 after the training had diverged.
        halvings: that are left for the micro-batch.
        micro_batch: when it is smaller than planned by now.
        steadiness: judges the steps.
        beat: called whenever something was done.
    """

    log: Callable[[str], None]
    rate_scale: float = 1.0
    halvings: int = HALVINGS
    micro_batch: int | None = None
    steadiness: Steadiness = field(default_factory=Steadiness)
    skipped: list[Skipped] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)
    beat: Callable[[], None] = lambda: None
    preemption: Preemption = field(default_factory=Preemption)

    def remedy(self, line: str) -> None:
        """Say what was done to go on, and remember it."""
        self.remedies.append(line)
        self.log(line)


class CompletionTrainer(SFTTrainer):
    """SFTTrainer on rows that are already tokens. What it calls a batch is a whole optimizer step; `StepGradient` cuts it."""

    lr_scheduler: LambdaLR | None
    optimizer: Optimizer | None

    def __init__(
        self,
        *,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row],
        recipe: Recipe,
        collate: Collate,
        loss: StepLoss | None = None,
        max_steps: int = -1,
        callbacks: Sequence[TrainerCallback] = (),
        endurance: Endurance | None = None,
        team: Team = ALONE,
    ) -> None:
        self.loss = loss or CompletionLoss(label_smoothing=recipe.hyperparameters.label_smoothing)
        self.trained = model
        self.team = team
        self.rows = rows
        self.recipe = recipe
        self.collate = collate
        self.endurance = endurance
        self.steps = Steps(
            [row.length for row in rows],
            effective_batch=recipe.hyperparameters.effective_batch,
            seed=recipe.hyperparameters.seed,
        )
        self.compiled_layers = 0
        self._totals: StepTotals | None = None
        super().__init__(
            model=model,
            args=trainer_arguments(recipe, max_steps=max_steps, sharded=team.sharded),
            data_collator=collate,
            train_dataset=Dataset.from_list(as_records(rows)),
            processing_class=tokenizer,
            callbacks=[_Epochs(self.steps), *callbacks],
        )
        # It prints every step; our reporter shows the bar.
        self.remove_callback(PrinterCallback)
        for parameter in model.parameters():
            if parameter.requires_grad:
                # SFTTrainer makes the adapters of a quantised base bfloat16, whose eight bits round small updates away.
                parameter.data = parameter.data.float()
        if team.size > 1:
            # Here, without DDP around it: gradients are summed once a step, by `StepGradient`.
            self.accelerator.prepare_model(model, device_placement=not team.sharded, evaluation_mode=True)
        self.gradient = self._gradient()

    def _gradient(self) -> StepGradient:
        known = {
            "trained": self.trained,
            "rows": self.rows,
            "recipe": self.recipe,
            "collate": self.collate,
            "accelerator": self.accelerator,
            "loss": self.loss,
            "team": self.team,
        }
        if (wanted := self.endurance) is None:
            return StepGradient(**known)
        made = StepGradient(**known, halvings=wanted.halvings, say=wanted.remedy, beat=wanted.beat, preemption=wanted.preemption)
        made.micro_batch = wanted.micro_batch or made.micro_batch
        return made

    def _send_telemetry(self) -> None:
        """Nothing about a training leaves the machine."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: what is seen here are the places of rows."""
        return 0

    def get_train_dataloader(self) -> DataLoader:
        """The places of the rows of each optimizer step; see `Steps`."""
        # A range has all that a loader asks for, but not torch's type.
        places: Any = range(len(self.rows))
        return DataLoader(places, batch_sampler=self.steps, collate_fn=lambda step: {ROWS: step})

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """AdamW, with two rates if the technique has them; see `optimizers`.

        What is trained in parts is cut now: after a checkpoint was read, before the optimizer holds on to the weights.
        """
        if self.optimizer is None:
            if self.team.sharded:
                self.gradient.whole = sharded(self.trained, device=self.args.device, size=self.team.size)
            self.optimizer = adamw(model or self.trained, technique=self.recipe.technique, hyperparameters=self.recipe.hyperparameters)
            if self.team.sharded:
                cut_when_loaded(self.optimizer)
        return self.optimizer

    def whole_weights(self) -> dict[str, Tensor] | None:
        """What `adapters.write` needs beside the model; every process has to ask for it."""
        whole = self.gradient.whole
        return None if whole is None or isinstance(self.trained, PeftModel) else weights(whole, keep=self.team.first)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """The schedule of the hyperparameters; see `rate_factor`."""
        if self.lr_scheduler is None:
            wanted = self.recipe.hyperparameters
            scale = 1.0 if self.endurance is None else self.endurance.rate_scale
            scheduled = self.optimizer if optimizer is None else optimizer
            assert isinstance(scheduled, Optimizer)
            self.lr_scheduler = LambdaLR(
                scheduled,
                lambda step: scale * rate_factor(step, total=num_training_steps, hyperparameters=wanted),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The gradient of a whole optimizer step; a step that must not be learned from leaves none, and the optimizer nothing to do.

        Raises:
            LossNotFinite: names the step and the rows; only without endurance.
            Diverged: step after step cannot be learned from.
            OutOfMemory, Interrupted: see `StepGradient`.
        """
        model.train()
        step = self.state.global_step + 1
        totals = self.gradient.of(inputs[ROWS], step=step)
        why = self._objection(totals)
        if why is None:
            self._totals = totals
        else:
            model.zero_grad(set_to_none=True)
            self._totals = None
            self._skip(step, f"{why} on rows {shown_ids(totals.ids or [self.rows[place].id for place in inputs[ROWS]])}")
        return torch.tensor(0.0 if why else totals.loss, device=self.args.device)

    def _objection(self, totals: StepTotals) -> str | None:
        gradients = [parameter.grad for parameter in self.trained.parameters() if parameter.grad is not None]
        norm = number(nn.utils.get_total_norm(gradients))
        judge = Steadiness() if self.endurance is None else self.endurance.steadiness
        return judge.objection(totals.loss, norm)

    def _skip(self, step: int, why: str) -> None:
        remedy = "lower training.learning_rate, write training.dtype: float32, or look at these rows"
        if self.endurance is None:
            raise LossNotFinite(f"step {step}: {why}; {remedy}")
        self.endurance.skipped.append(Skipped(step, why))
        self.endurance.log(f"step {step} is skipped: {why}")
        if self.endurance.steadiness.lost:
            raise Diverged(f"step {step}: {why}, after {self.endurance.steadiness.in_a_row - 1} steps that had to be skipped; {remedy}")

    def take_totals(self) -> StepTotals | None:
        """What the last step has seen; None if it was skipped."""
        totals, self._totals = self._totals, None
        return totals


class _Epochs(TrainerCallback):
    """Tells the steps which epoch it is; a loader that accelerate has not prepared is not told."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        self._steps.set_epoch(int(state.epoch or 0))


def rate_factor(step: int, *, total: int, hyperparameters: Hyperparameters) -> float:
    """The learning rate of a step (counted from 0) as a share of the highest.

    The warm-up begins above 0, unlike the schedules of transformers: their first step learns nothing, and a small data set has few.
    """
    warmup = math.ceil(total * hyperparameters.warmup_share)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    match hyperparameters.schedule:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, 1.0 - done)
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def build_trainer(
    recipe: Recipe,
    *,
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_steps: int = -1,
    callbacks: Sequence[TrainerCallback] = (),
    endurance: Endurance | None = None,
    also: Sequence[Row] = (),
    references: Path | None = None,
    team: Team = ALONE,
) -> CompletionTrainer:
    """Everything that a training and its preflight share: base model, technique, batches, loss.

    Args:
        recipe: what was asked for.
        rows: checked, see `check_rows`.
        tokenizer: of the base model.
        max_steps: optimizer steps; -1 for the epochs that the recipe says.
        callbacks: of transformers.
        endurance: of a training; preflight wants to see what goes wrong.
        also: rows that will be looked at and not trained on.
        references: file that keeps what the untrained model makes of the answers, where they are compared.
        team: the processes that train together.

    Raises:
        LossNotTheModels: our loss is not that of this architecture.
        NotInParts: the team has a part of the model each, which does not go with this technique or architecture.
        NotCompiled: the placement always wants compiled layers, and they cannot be had.
    """
    placement = recipe.placement
    if team.sharded:
        check_shardable(recipe.technique)
        # A device may have room for its part only.
        placement = placement.model_copy(update={"device": "cpu"})
    base = load_base(recipe.model, technique=recipe.technique, placement=placement)
    collate = fitting_collate(base, rows=rows, pad_id=pad_id(tokenizer))
    beat = (lambda: None) if endurance is None else endurance.beat
    loss = loss_of(recipe, base, [*rows, *also], collate=collate, file=references, beat=beat, team=team)
    model = with_technique(base, technique=recipe.technique, seed=recipe.hyperparameters.seed)
    trainer = CompletionTrainer(
        model=model,
        tokenizer=tokenizer,
        rows=rows,
        recipe=recipe,
        collate=collate,
        loss=loss,
        max_steps=max_steps,
        callbacks=callbacks,
        endurance=endurance,
        team=team,
    )
    if team.size > 1:
        # Other rows, other dropout.
        set_seed(recipe.hyperparameters.seed, device_specific=True)
    say = print if endurance is None else endurance.log
    trainer.compiled_layers = compiled_as_placed(base, recipe.placement, sharded=team.sharded, say=say)
    return trainer


def fitting_collate(model: PreTrainedModel, *, rows: Sequence[Row], pad_id: int) -> Collate:
    """Flat batches where the architecture allows, else padded; proven equal to the model's own loss on the two shortest rows.

    Raises:
        LossNotFinite: the model has no loss even before it is trained.
        LossNotTheModels: they differ by more than rounding.
    """
    chosen = sorted(rows, key=lambda row: len(row.input_ids))[:2]
    shortest = as_records(chosen)
    padded = Collate(pad_id=pad_id, flat=False)
    evaluate(model)
    with torch.no_grad():
        own = _own_loss(model, padded(shortest))
        collate = Collate(pad_id=pad_id, flat=use_rows_attention(model))
        batch = on_device(collate(shortest), model.device)
        ours = float(batch_nll(model, batch)) / counted_labels(batch["labels"])
    if not math.isfinite(own):
        raise LossNotFinite(
            f"step 0: the untrained model's loss is {own} on rows {shown_ids([row.id for row in chosen])}; "
            f"its weights are broken, or overflow in {model.dtype}"
        )
    tolerance = 1e-3 if model.dtype == torch.float32 else 3e-2
    if not math.isclose(own, ours, rel_tol=tolerance, abs_tol=tolerance):
        raise LossNotTheModels(
            f"{type(model).__name__} computes a loss of {own:.5f} on two rows where this program computes {ours:.5f}; "
            "this architecture cannot be trained here yet: choose another base model, and report its name"
        )
    return collate


def _own_loss(model: PreTrainedModel, batch: dict[str, Any]) -> float:
    inputs = on_device(batch, model.device)
    inputs.pop(ROWS)
    # Without the routers' own loss, which some configurations add: see docs/speed.md.
    routers = {"output_router_logits": False} if hasattr(model.config.get_text_config(), "output_router_logits") else {}
    return float(model(**inputs, use_cache=False, **routers).loss)
