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
from fine_tune_pipeline.programs.losses import batch_loss
from fine_tune_pipeline.programs.preemption import Preemption
from fine_tune_pipeline.programs.randomness import restore, states
from fine_tune_pipeline.programs.recipe import Recipe, computing, on_device

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
    """What one optimizer step has seen: `nll` in nats over `labelled` tokens; `tokens` without padding, `places` with it; `ids` of the rows
    whose loss is no number."""

    nll: float
    labelled: int
    tokens: int
    places: int
    ids: tuple[str, ...]

    @property
    def loss(self) -> float:
        """In nats per labelled token."""
        return self.nll / self.labelled


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
    halvings: int = 0
    say: Callable[[str], None] = print
    beat: Callable[[], None] = lambda: None
    preemption: Preemption = field(default_factory=Preemption)
    passes: Passes = field(default_factory=Passes)

    def __post_init__(self) -> None:
        self.micro_batch = min(self.recipe.placement.micro_batch, self.recipe.hyperparameters.effective_batch)
        self._records = as_records(self.rows)
        wanted = self.recipe.hyperparameters
        self._noise = EmbeddingNoise(self.trained, alpha=wanted.neftune_alpha, seed=wanted.seed)

    def of(self, places: Sequence[int], *, step: int) -> StepTotals:
        """Leave in every parameter's `grad` the gradient of the mean loss over all labelled tokens of these rows.

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
        labelled = sum(self.rows[place].labelled for place in places)
        losses: list[Tensor] = []
        tokens = numel = 0
        try:
            for first in range(0, len(places), self.micro_batch):
                records = [self._records[place] for place in places[first : first + self.micro_batch]]
                batch = on_device(self.collate(records), self.accelerator.device)
                with self.preemption.interruptible(), self._noise.over(batch, step=step):
                    losses.append(self._pass(batch, labelled=labelled))
                tokens += real_tokens(batch)
                numel += batch["input_ids"].numel()
                self._count(batch, places[first : first + self.micro_batch])
                self.beat()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return str(error).partition("\n")[0]
        # One look at the device for the whole step.
        found = torch.stack(losses).tolist()
        wrong = [number for number, loss in enumerate(found) if not math.isfinite(loss)]
        ids = [self.rows[place].id for number in wrong for place in places[number * self.micro_batch : (number + 1) * self.micro_batch]]
        return StepTotals(sum(found), labelled, tokens, numel, tuple(ids))

    def _pass(self, batch: dict[str, Any], *, labelled: int) -> Tensor:
        with computing(self.recipe):
            loss = batch_loss(self.trained, batch, label_smoothing=self.recipe.hyperparameters.label_smoothing)
        self.accelerator.backward(loss.trained / labelled)
        return loss.nll.detach()

    def _count(self, batch: dict[str, Any], places: Sequence[int]) -> None:
        self.passes.count += 1
        self.passes.rows += len(batch[ROWS])
        self.passes.most_tokens = max(self.passes.most_tokens, batch["input_ids"].numel())
        self.passes.most_labelled = max(self.passes.most_labelled, sum(self.rows[place].labelled for place in places))

    def _halve(self, said: str, places: Sequence[int], *, step: int) -> None:
        longest = self.rows[places[0]]
        if self.halvings == 0 or self.micro_batch == 1:
            raise OutOfMemory(
                f"step {step}: out of memory with {self.micro_batch} rows a pass, the longest of {len(longest.input_ids)} tokens "
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up: CUDA's has an exception of its own, that of the CPU only a text."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator: can't allocate memory" in str(error)
