"""What a training makes small: a sum over the rows of an optimizer step, divided by what these rows weigh.

Everything around it (micro-batches, checkpoints, skipped steps, curve) is the same for every such loss.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from fine_tune_pipeline.programs.training.batches import Row
from fine_tune_pipeline.programs.training.losses import batch_loss

Batched = Callable[[Sequence[Row]], dict[str, Any]]
"""Makes the tensors of some sequences, where the model is."""


class Summed(NamedTuple):
    """Over the rows of one pass: the loss, a scalar that can be differentiated; what `StepLoss.figures` names, [F], or None; and the loss
    that is told, where it is another one."""

    loss: Tensor
    figures: Tensor | None = None
    told: Tensor | None = None


class StepLoss(Protocol):
    """`unit` is what the loss is counted in, for people; `figures` are told beside it, each a mean over the rows."""

    unit: str
    figures: tuple[str, ...]

    def weight(self, rows: Sequence[Row]) -> int:
        """What the summed loss of these rows is divided by."""

    def sequences(self, rows: Sequence[Row]) -> Sequence[Row]:
        """What goes through the model for these rows, in this order."""

    def begin(self, model: nn.Module, passes: Sequence[Sequence[Row]], batched: Batched) -> Sequence[float]:
        """What the model has to be asked before the first pass of a step: a number of each row, or nothing.

        Args:
            passes: the rows of each.
        """

    def begun(self, numbers: Sequence[float], rows: Sequence[Row]) -> float:
        """What `summed` must know of all rows of a step.

        Args:
            numbers: that `begin` has found, of all of them.
        """

    def summed(self, model: nn.Module, rows: Sequence[Row], batch: dict[str, Any], begun: float) -> Summed:
        """Of one pass.

        Args:
            batch: of the `sequences` of the rows.
            begun: of the whole step.
        """


class CompletionLoss:
    """Cross-entropy of the labelled tokens: supervised fine-tuning."""

    unit = "nats per token"
    figures: tuple[str, ...] = ()

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self._label_smoothing = label_smoothing

    def weight(self, rows: Sequence[Row]) -> int:
        """Labelled tokens."""
        return sum(row.labelled for row in rows)

    def sequences(self, rows: Sequence[Row]) -> Sequence[Row]:
        return rows

    def begin(self, model: nn.Module, passes: Sequence[Sequence[Row]], batched: Batched) -> Sequence[float]:
        return ()

    def begun(self, numbers: Sequence[float], rows: Sequence[Row]) -> float:
        return 0.0

    def summed(self, model: nn.Module, rows: Sequence[Row], batch: dict[str, Any], begun: float) -> Summed:
        seen = batch_loss(model, batch, label_smoothing=self._label_smoothing)
        return Summed(seen.trained, told=seen.nll)
