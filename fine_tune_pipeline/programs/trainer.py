"""The trainer of this project: TRL's `SFTTrainer` with our batches, loss and schedule, through its public hooks. Shared with preflight."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from fine_tune_pipeline.programs.adapters import evaluate, load_base, with_technique
from fine_tune_pipeline.programs.batches import ROWS, Collate, Row, StepBatches, as_records, counted_labels, real_tokens, shown_ids
from fine_tune_pipeline.programs.flat_rows import use_rows_attention
from fine_tune_pipeline.programs.losses import batch_nll
from fine_tune_pipeline.programs.preflight_requests import PreflightRequest
from fine_tune_pipeline.programs.requests import Hyperparameters, TrainRequest

Recipe = TrainRequest | PreflightRequest
"""What a training and its preflight have in common: model, format, technique, hyperparameters, placement."""


class LossNotFinite(ArithmeticError):
    """The loss or its gradient is NaN or infinite; going on would destroy the weights."""


class LossNotTheModels(ValueError):
    """The model's own loss and the one computed here differ: the architecture does something unknown to this project."""


class SeveralProcesses(ValueError):
    """The program was started in several processes, which it does not do yet."""


@dataclass
class StepTotals:
    """What one optimizer step has seen: `nll` in nats over `labelled` tokens; `tokens` without padding."""

    nll: float = 0.0
    labelled: int = 0
    tokens: int = 0


@dataclass
class Passes:
    """All forward passes so far; `most_tokens` and `most_labelled` are of the largest ones, padding included."""

    count: int = 0
    rows: int = 0
    most_tokens: int = 0
    most_labelled: int = 0

    def add(self, inputs: dict[str, Any], *, labelled: int) -> None:
        self.count += 1
        self.rows += len(inputs[ROWS])
        self.most_tokens = max(self.most_tokens, inputs["input_ids"].numel())
        self.most_labelled = max(self.most_labelled, labelled)


class CompletionTrainer(SFTTrainer):
    """SFTTrainer on rows that are already tokens."""

    loss_is_scaled_for_ga = True
    lr_scheduler: LambdaLR | None

    def __init__(
        self,
        *,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row],
        recipe: Recipe,
        collate: Collate,
        max_steps: int = -1,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.trained = model
        self.rows = rows
        self.recipe = recipe
        self.collate = collate
        self.totals = StepTotals()
        self.passes = Passes()
        self.batches = StepBatches(
            [len(row.input_ids) for row in rows],
            effective_batch=recipe.hyperparameters.effective_batch,
            micro_batch=recipe.placement.micro_batch,
            seed=recipe.hyperparameters.seed,
        )
        self._records = Dataset.from_list(as_records(rows))
        super().__init__(
            model=model,
            args=_arguments(recipe, accumulation=self.batches.accumulation, max_steps=max_steps),
            data_collator=collate,
            train_dataset=self._records,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        # It prints every step; our reporter shows the bar.
        self.remove_callback(PrinterCallback)
        # `compute_loss` divides by the labelled tokens of the whole step, whatever the model's own forward can do.
        self.model_accepts_loss_kwargs = True
        for parameter in model.parameters():
            if parameter.requires_grad:
                # SFTTrainer makes the adapters of a quantised base bfloat16, whose eight bits round small updates away.
                parameter.data = parameter.data.float()

    def _send_telemetry(self) -> None:
        """Nothing about a training leaves the machine."""

    def get_train_dataloader(self) -> DataLoader:
        """Micro-batches of whole optimizer steps, by length; see `StepBatches`."""
        # A data set of Hugging Face has all that a loader asks for, but not torch's type.
        return self.accelerator.prepare(DataLoader(self._records, batch_sampler=self.batches, collate_fn=self.collate))  # pyright: ignore[reportArgumentType]

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """The schedule of the hyperparameters; see `rate_factor`."""
        if self.lr_scheduler is None:
            wanted = self.recipe.hyperparameters
            scheduled = self.optimizer if optimizer is None else optimizer
            assert isinstance(scheduled, Optimizer)
            self.lr_scheduler = LambdaLR(
                scheduled,
                lambda step: rate_factor(step, total=num_training_steps, hyperparameters=wanted),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """This micro-batch's share of the step's loss: summed over its labelled tokens, divided by those of the whole step.

        Raises:
            LossNotFinite: names the step and the rows.
        """
        assert not return_outputs
        assert num_items_in_batch is not None
        with computing(self.recipe):
            nll = batch_nll(model, inputs)
        value = float(nll.detach())
        if not math.isfinite(value):
            ids = [self.rows[place].id for place in inputs[ROWS]]
            raise LossNotFinite(
                f"step {self.state.global_step + 1}: the loss is {value} on rows {shown_ids(ids)}; "
                "lower training.learning_rate, write training.dtype: float32, or look at these rows"
            )
        self.totals.nll += value
        labelled = counted_labels(inputs["labels"])
        self.totals.labelled += labelled
        self.passes.add(inputs, labelled=labelled)
        self.totals.tokens += real_tokens(inputs)
        return nll / num_items_in_batch

    def take_totals(self) -> StepTotals:
        """What was seen since the last call."""
        totals, self.totals = self.totals, StepTotals()
        return totals


def computing(recipe: Recipe) -> torch.autocast:
    """Products in bfloat16 on the float32 weights of full tuning, if planned so; a base under adapters has the number format itself.

    transformers leaves this to the forward of the model, which the loss on labelled positions does not go through.
    """
    mixed = recipe.technique.type == "full" and recipe.placement.dtype == "bfloat16"
    return torch.autocast(torch.device(recipe.placement.device).type, dtype=torch.bfloat16, enabled=mixed)


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


def _arguments(recipe: Recipe, *, accumulation: int, max_steps: int) -> SFTConfig:
    wanted = recipe.hyperparameters
    return SFTConfig(
        output_dir=recipe.output,
        num_train_epochs=wanted.epochs,
        max_steps=max_steps,
        per_device_train_batch_size=recipe.placement.micro_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=wanted.learning_rate,
        weight_decay=wanted.weight_decay,
        max_grad_norm=wanted.max_grad_norm,
        optim="adamw_torch_fused",
        seed=wanted.seed,
        activation_checkpointing=recipe.placement.gradient_checkpointing,
        bf16=recipe.placement.dtype == "bfloat16",
        use_cpu=recipe.placement.device == "cpu",
        # Rows come tokenised and checked: nothing is tokenised again, cut or given an end token.
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        # Kept in the configuration of a fully trained model, which would then generate without its cache.
        use_cache=True,
        dataloader_pin_memory=recipe.placement.device != "cpu",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def build_trainer(
    recipe: Recipe,
    *,
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_steps: int = -1,
    callbacks: Sequence[TrainerCallback] = (),
) -> CompletionTrainer:
    """Everything that a training and its preflight share: base model, technique, batches, loss.

    Args:
        recipe: what was asked for.
        rows: checked, see `check_rows`.
        tokenizer: of the base model.
        max_steps: optimizer steps; -1 for the epochs that the recipe says.
        callbacks: of transformers.

    Raises:
        LossNotTheModels: our loss is not that of this architecture.
    """
    base = load_base(recipe.model, technique=recipe.technique, placement=recipe.placement)
    collate = fitting_collate(base, rows=rows, pad_id=pad_id(tokenizer))
    model = with_technique(base, technique=recipe.technique, seed=recipe.hyperparameters.seed)
    trainer = CompletionTrainer(
        model=model, tokenizer=tokenizer, rows=rows, recipe=recipe, collate=collate, max_steps=max_steps, callbacks=callbacks
    )
    if trainer.accelerator.num_processes > 1:
        raise SeveralProcesses(f"started in {trainer.accelerator.num_processes} processes; this program trains in one, on one device")
    return trainer


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Of a tokenizer of `load_tokenizer`, which always has one."""
    assert isinstance(tokenizer.pad_token_id, int)
    return tokenizer.pad_token_id


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
    return float(model(**inputs, use_cache=False).loss)


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors of a batch where the model is."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
