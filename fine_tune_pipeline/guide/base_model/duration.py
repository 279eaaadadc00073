"""How long training takes, by counting its operations, and what it consumes in that time. Tokens are real ones, without padding."""

from dataclasses import dataclass

from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.hardware import Speed
from fine_tune_pipeline.programs.requests import Technique

QLORA_SLOWDOWN = {"cpu": 2.4, "cuda": 1.5}
"""Weights are unpacked for every pass: measured on two CPU cores; published figures of accelerators lie between 1.3 and 1.6."""


@dataclass(frozen=True)
class Tokens:
    """What is trained on: all tokens, those that the loss is computed on, and those of a mean row."""

    all: float
    labelled: float
    per_row: float


def training_operations(model: Architecture, technique: Technique, tokens: Tokens, *, checkpointing: bool = False) -> float:
    """Floating-point operations of one pass over `tokens`, forward and backward.

    A matrix takes 2 operations per weight and token forward and 2 for the gradient of its input; its own gradient, 2 more, only where
    it is trained. The output head is computed on labelled tokens only, and once more where it is trained; the embedding's look-up is
    free. Attention is counted without leaving the masked half out, as plain kernels do.
    """
    trained = 2 if technique.type == "full" else 0
    body = (4 + trained + (2 if checkpointing else 0)) * model.body_parameters
    adapters = 0 if technique.type == "full" else 6 * model.lora_parameters(technique.rank)
    attention = 12 * model.layers * model.query_width * tokens.per_row
    head = (4 + 2 * trained) * model.vocabulary * model.hidden
    return tokens.all * (body + adapters + attention) + tokens.labelled * head


def training_seconds(
    model: Architecture, technique: Technique, tokens: Tokens, *, epochs: float, at: Speed, checkpointing: bool = False
) -> float:
    """Predicted seconds of the training loop."""
    slowdown = QLORA_SLOWDOWN[at.kind] if technique.type == "qlora" else 1.0
    return slowdown * epochs * training_operations(model, technique, tokens, checkpointing=checkpointing) / at.rate


def kilowatt_hours(seconds: float, *, at: Speed) -> float | None:
    """Energy at full load; None when the power is not known."""
    return None if at.watts is None else at.watts * seconds / 3.6e6
