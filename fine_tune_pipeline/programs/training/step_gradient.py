"""The gradient of one optimizer step: its rows in micro-batches, smaller ones when the memory does not suffice; with several processes, the
sum of what each has computed of its share."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.training.batches import ROWS, Collate, Row, as_records, real_tokens, shown_ids
from fine_tune_pipeline.programs.training.embedding_noise import EmbeddingNoise
from fine_tune_pipeline.programs.training.preemption import Preemption
from fine_tune_pipeline.programs.training.randomness import restore, states
from fine_tune_pipeline.programs.training.recipe import Recipe, computing, on_device
from fine_tune_pipeline.programs.training.sharding import Whole
from fine_tune_pipeline.programs.training.step_loss import CompletionLoss, StepLoss, Summed
from fine_tune_pipeline.programs.training.team import ALONE, Team

T = TypeVar("T")

HALVINGS = 4
"""Times that the micro-batch is halved, at most: what needs a sixteenth of the planned one was planned for another machine."""


class OutOfMemory(MemoryError):
    """One step does not fit into the memory, however small its micro-batches."""


class Passes(NamedTuple):
    """Forward passes; `most_tokens` and `most_labelled` are of the largest ones, padding included."""

    made: int = 0
    rows: int = 0
    most_tokens: int = 0
    most_labelled: int = 0

    def __and__(self, other: "Passes") -> "Passes":
        """Both together."""
        most = max(self.most_tokens, other.most_tokens), max(self.most_labelled, other.most_labelled)
        return Passes(self.made + other.made, self.rows + other.rows, *most)


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


class _Share(NamedTuple):
    """What one process has seen of a step: its loss and figures, numbers as in `StepTotals`, and which of the trained parameters have no
    gradient from it."""

    sums: tuple[float, ...]
    tokens: int
    places: int
    ids: tuple[str, ...]
    passes: Passes
    untouched: frozenset[int]


class _Fitted(NamedTuple, Generic[T]):
    """What one process has found, what it did to have room for it, and where that has led it."""

    found: T
    said: tuple[str, ...]
    micro_batch: int
    halvings: int


@dataclass
class StepGradient:
    """Forward and backward passes over the rows of a step.

    `halvings`: times that the micro-batch may be halved from now on; `say` hears of it; `beat` is called before every pass. `team`: those
    that share the rows. `whole`: the model of which this process has only a part.
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
    team: Team = ALONE
    whole: Whole | None = None
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
        rows = [self.rows[place] for place in places]
        ahead = self._together(lambda: self.ahead(rows, micro_batch=self.micro_batch), places, step=step)
        begun, weight = self.loss.begun([number for each in ahead for number in each], rows), self.loss.weight(rows)
        shares = self._together(lambda: self._share(places, step=step, weight=weight, begun=begun), places, step=step)
        self._add(shares)
        for share in shares:
            self.passes &= share.passes
        summed, *figures = (sum(column) for column in zip(*(share.sums for share in shares), strict=True))
        means = {name: figure / len(rows) for name, figure in zip(self.loss.figures, figures, strict=True)}
        tokens, numel = (sum(column) for column in zip(*((share.tokens, share.places) for share in shares), strict=True))
        ids = tuple(id for share in shares for id in share.ids)
        return StepTotals(summed, weight, sum(row.labelled for row in rows), tokens, numel, ids, means)

    def ahead(self, rows: Sequence[Row], *, micro_batch: int) -> Sequence[float]:
        """What the loss wants to know before the first pass, of this process' share of the rows."""
        passes = [each.rows for each in self.team.passes(rows, micro_batch) if each.counts]
        with self.interruptible(), computing(self.recipe):
            return self.loss.begin(self.trained, passes, self.batched)

    def batched(self, sequences: Sequence[Row]) -> dict[str, Any]:
        """The tensors of a pass."""
        self.beat()
        return on_device(self.collate(as_records(sequences)), self.accelerator.device)

    def seen(self, rows: Sequence[Row], batch: dict[str, Any], begun: float) -> Summed:
        """What the loss makes of one pass."""

        def summed(model: nn.Module) -> Summed:
            return self.loss.summed(model, rows, batch, begun)

        with computing(self.recipe):
            return summed(self.trained) if self.whole is None else self.whole(summed)

    def interruptible(self) -> AbstractContextManager[None]:
        """Where a signal may break off what is computed. Whoever leaves a pass of a model in parts leaves the others waiting in it."""
        return nullcontext() if self.team.sharded else self.preemption.interruptible()

    def meet(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives in each process, by rank; what hinders one is raised in all."""
        return self.team.together(work, preemption=self.preemption, shared=OutOfMemory)

    def _together(self, work: Callable[[], T], places: Sequence[int], *, step: int) -> list[T]:
        """What each process finds, in passes as small as they have to be; all go on with the smallest."""
        brought = self.meet(lambda: self._fitted(work, places, step=step))
        for rank, each in enumerate(brought):
            for line in each.said:
                self.say(line if self.team.size == 1 else f"process {rank}: {line}")
        self.micro_batch = min(each.micro_batch for each in brought)
        self.halvings = min(each.halvings for each in brought)
        return [each.found for each in brought]

    def _fitted(self, work: Callable[[], T], places: Sequence[int], *, step: int) -> _Fitted[T]:
        begun, said = states(), list[str]()
        while True:
            try:
                return _Fitted(work(), tuple(said), self.micro_batch, self.halvings)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                why = str(error).partition("\n")[0]
            # Outside of the handler, whose traceback holds the tensors of the pass that failed.
            self.trained.zero_grad(set_to_none=True)
            said.append(self._halve(why, places, step=step))
            restore(begun)

    def _share(self, places: Sequence[int], *, step: int, weight: int, begun: float) -> _Share:
        passes, counted = self.team.passes(places, self.micro_batch), list[list[Row]]()
        seen, sums = Passes(), list[Tensor]()
        tokens = numel = 0
        for each in passes:
            rows = [self.rows[place] for place in each.rows]
            batch = self.batched(self.loss.sequences(rows))
            # The answers to one prompt are of one row, and have its noise.
            batch[ROWS] = [*each.rows] * (len(batch[ROWS]) // len(rows))
            with self.interruptible(), self._noise.over(batch, step=step):
                # Of infinitely much, what only keeps step weighs nothing.
                made = self._pass(rows, batch, weight=weight if each.counts else math.inf, begun=begun)
            if each.counts:
                counted.append(rows)
                sums.append(made)
                tokens += real_tokens(batch)
                numel += batch["input_ids"].numel()
                seen &= Passes(1, len(batch[ROWS]), batch["input_ids"].numel(), sum(row.labelled for row in rows))
        # One look at the device for the whole step.
        found = torch.stack(sums).tolist() if sums else []
        ids = [row.id for (loss, *_), rows in zip(found, counted, strict=True) if not math.isfinite(loss) for row in rows]
        nothing = (0.0,) * (1 + len(self.loss.figures))
        totals = tuple(sum(column) for column in zip(*found, strict=True)) or nothing
        untouched = frozenset(number for number, each in enumerate(self._replicated()) if each.grad is None)
        return _Share(totals, tokens, numel, tuple(ids), seen, untouched)

    def _pass(self, rows: Sequence[Row], batch: dict[str, Any], *, weight: float, begun: float) -> Tensor:
        """Loss and figures, [1 + F]."""
        seen = self.seen(rows, batch, begun)
        self.accelerator.backward(seen.loss / weight)
        return flat(seen)

    def _replicated(self) -> list[Tensor]:
        """What learns and is whole in each process, so that its gradient is still to be summed."""
        return [each for each in self.trained.parameters() if each.requires_grad and not isinstance(each, DTensor)]

    def _add(self, shares: Sequence[_Share]) -> None:
        """The gradient of all shares. What none of them has touched, as an expert that no token went to, stays without: zero is another
        thing to an optimizer."""
        if self.team.size == 1:
            return
        untouched = frozenset.intersection(*(share.untouched for share in shares))
        learning = [each for number, each in enumerate(self._replicated()) if number not in untouched]
        for each in learning:
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        self.team.add([each.grad for each in learning if each.grad is not None])

    def _halve(self, said: str, places: Sequence[int], *, step: int) -> str:
        longest = self.rows[places[0]]
        # The others are in the middle of the pass that has failed here.
        if self.halvings == 0 or self.micro_batch == 1 or self.team.sharded:
            raise OutOfMemory(
                f"step {step}: out of memory with {self.micro_batch} rows a pass, the longest of {longest.length} tokens "
                f"({shown_ids([longest.id])}): {said}; lower training.max_length, take qlora or a smaller base model, or "
                f"{'more processes' if self.team.sharded else 'a device with more memory'}"
            )
        before, self.micro_batch = self.micro_batch, -(-self.micro_batch // 2)
        self.halvings -= 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return (
            f"step {step}: out of memory with {before} rows a pass; {self.micro_batch} from here on, which is slower and computes the same"
        )


def flat(seen: Summed) -> Tensor:
    """Loss and figures side by side, without what a gradient needs."""
    loss = (seen.loss if seen.told is None else seen.told).detach()[None]
    return loss if seen.figures is None else torch.cat([loss, seen.figures])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up: CUDA's has an exception of its own, that of the CPU only a text."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator: can't allocate memory" in str(error)
