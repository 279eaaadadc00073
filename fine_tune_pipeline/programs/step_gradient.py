"""The gradient of one optimizer step: its rows in micro-batches, smaller ones when the memory does not suffice."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.batches import ROWS, Collate, Row, as_records, real_tokens, shown_ids
from fine_tune_pipeline.programs.embedding_noise import EmbeddingNoise
from fine_tune_pipeline.programs.preemption import Preemption
from fine_tune_pipeline.programs.randomness import restore, states
from fine_tune_pipeline.programs.recipe import Recipe, computing, on_device
from fine_tune_pipeline.programs.step_loss import CompletionLoss, StepLoss, Summed

HALVINGS = 4
"""Times that the micro-batch is halved, at most: what needs a sixteenth of the planned one was planned for another machine."""


class OutOfMemory(MemoryError):
    """One step does not fit into the memory, however small its micro-batches."""


@dataclass
class Passes:
    """All forward passes so far; `most_tokens` and `most_labelled` are of the largest ones, padding included."""

    count: int = 0
    rows: int = 0
    most_tokens: int = 0
    most_labelled: int = 0


class StepTotals(NamedTuple):
    """What one optimizer step has seen: `summed` is its loss times `weight`; `labelled` tokens, `tokens` without padding, `places` with it;
    `ids` of the rows whose loss is no number; `figures` of the loss."""

    summed: float
    weight: int
    labelled: int
    tokens: int
    places: int
    ids: tuple[str, ...]
    figures: dict[str, float]

    @property
    def loss(self) -> float:
        """In the loss's unit: nats per labelled token, unless something else is learned."""
        return self.summed / self.weight


@dataclass
class StepGradient:
    """Forward and backward passes over the rows of a step.

    `halvings`: times that the micro-batch may be halved from now on; `say` hears of it; `beat` is called after every pass.
    """

    trained: PreTrainedModel | PeftModel
    rows: Sequence[Row]
    recipe: Recipe
    collate: Collate
    accelerator: Accelerator
    loss: StepLoss = field(default_factory=CompletionLoss)
    halvings: int = 0
    say: Callable[[str], None] = print
    beat: Callable[[], None] = lambda: None
    preemption: Preemption = field(default_factory=Preemption)
    passes: Passes = field(default_factory=Passes)

    def __post_init__(self) -> None:
        self.micro_batch = min(self.recipe.placement.micro_batch, self.recipe.hyperparameters.effective_batch)
        wanted = self.recipe.hyperparameters
        self._noise = EmbeddingNoise(self.trained, alpha=wanted.neftune_alpha, seed=wanted.seed)

    def of(self, places: Sequence[int], *, step: int) -> StepTotals:
        """Leave in every parameter's `grad` the gradient of the loss of these rows, for supervised learning the mean over their tokens.

        Args:
            places: of the rows, those of a like length beside each other.
            step: that is being made, counted from 1.

        Raises:
            OutOfMemory: the micro-batch cannot be halved once more.
            Interrupted: a signal wants the program to end; there may be half a gradient.
        """
        begun = states()
        while True:
            seen = self._summed(places, step=step)
            if isinstance(seen, StepTotals):
                return seen
            # Outside of the handler, whose traceback holds the tensors of the pass that failed.
            self.trained.zero_grad(set_to_none=True)
            self._halve(seen, places, step=step)
            restore(begun)

    def _summed(self, places: Sequence[int], *, step: int) -> StepTotals | str:
        """What was seen, or what the allocator said."""
        rows = [self.rows[place] for place in places]
        passes = [rows[first : first + self.micro_batch] for first in range(0, len(rows), self.micro_batch)]
        weight = self.loss.weight(rows)
        sums: list[Tensor] = []
        tokens = numel = 0
        try:
            with self.preemption.interruptible(), computing(self.recipe):
                begun = self.loss.begin(self.trained, passes, self._batched)
            for number, rows_of_pass in enumerate(passes):
                batch = self._batched(self.loss.sequences(rows_of_pass))
                own = places[number * self.micro_batch : number * self.micro_batch + len(rows_of_pass)]
                # The answers to one prompt are of one row, and have its noise.
                batch[ROWS] = [*own] * (len(batch[ROWS]) // len(own))
                with self.preemption.interruptible(), self._noise.over(batch, step=step):
                    sums.append(self._pass(rows_of_pass, batch, weight=weight, begun=begun))
                tokens += real_tokens(batch)
                numel += batch["input_ids"].numel()
                self._count(batch, rows_of_pass)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return str(error).partition("\n")[0]
        # One look at the device for the whole step.
        found = torch.stack(sums).tolist()
        ids = [row.id for (loss, *_), part in zip(found, passes, strict=True) if not math.isfinite(loss) for row in part]
        summed, *figures = (sum(column) for column in zip(*found, strict=True))
        means = {name: figure / len(rows) for name, figure in zip(self.loss.figures, figures, strict=True)}
        return StepTotals(summed, weight, sum(row.labelled for row in rows), tokens, numel, tuple(ids), means)

    def _batched(self, sequences: Sequence[Row]) -> dict[str, Any]:
        self.beat()
        return on_device(self.collate(as_records(sequences)), self.accelerator.device)

    def _pass(self, rows: Sequence[Row], batch: dict[str, Any], *, weight: int, begun: float) -> Tensor:
        """Loss and figures, [1 + F]."""
        with computing(self.recipe):
            seen = self.loss.summed(self.trained, rows, batch, begun)
        self.accelerator.backward(seen.loss / weight)
        return flat(seen)

    def _count(self, batch: dict[str, Any], rows: Sequence[Row]) -> None:
        self.passes.count += 1
        self.passes.rows += len(batch[ROWS])
        self.passes.most_tokens = max(self.passes.most_tokens, batch["input_ids"].numel())
        self.passes.most_labelled = max(self.passes.most_labelled, sum(row.labelled for row in rows))

    def _halve(self, said: str, places: Sequence[int], *, step: int) -> None:
        longest = self.rows[places[0]]
        if self.halvings == 0 or self.micro_batch == 1:
            raise OutOfMemory(
                f"step {step}: out of memory with {self.micro_batch} rows a pass, the longest of {longest.length} tokens "
                f"({shown_ids([longest.id])}): {said}; lower training.max_length, take qlora or a smaller base model, or "
                "a device with more memory"
            )
        before, self.micro_batch = self.micro_batch, -(-self.micro_batch // 2)
        self.halvings -= 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.say(
            f"step {step}: out of memory with {before} rows a pass; {self.micro_batch} from here on, which is slower and computes the same"
        )


def flat(seen: Summed) -> Tensor:
    """Loss and figures side by side, without what a gradient needs."""
    loss = (seen.loss if seen.told is None else seen.told).detach()[None]
    return loss if seen.figures is None else torch.cat([loss, seen.figures])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up: CUDA's has an exception of its own, that of the CPU only a text."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator: can't allocate memory" in str(error)
