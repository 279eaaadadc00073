"""How long training takes, by counting its operations, and what it consumes in that time. Tokens are real ones, without padding."""

from dataclasses import dataclass

from fine_tune_pipeline.guide.base_model.adapted import adapted_layers, adapted_matrices
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.hardware import Speed
from fine_tune_pipeline.programs.requests import Technique

QLORA_SLOWDOWN = {"cpu": 2.4, "cuda": 1.5}
"""Weights are unpacked for every pass: measured on two CPU cores; published figures of accelerators lie between 1.3 and 1.6."""

DORA_SLOWDOWN = 1.3
"""Lengths of all adapted rows, anew in every pass: measured on one CPU core with 512 tokens in a pass."""


LAYER_SECONDS, PASS_SECONDS = 0.004, 0.01
"""Of each layer and of each pass, whatever their size: Python starts some hundred operations (tiny models on one CPU core)."""

FORWARD_START = 0.5
"""Of what starting a pass costs, without its way back: about the share of its operations."""


@dataclass(frozen=True)
class Tokens:
    """What is trained on: all tokens, those that the loss is computed on, those of a mean row, and the forward passes that they take."""

    all: float
    labelled: float
    per_row: float
    passes: float = 0


def training_operations(model: Architecture, technique: Technique, tokens: Tokens, *, checkpointing: bool = False) -> float:
    """Floating-point operations of one pass over `tokens`, forward and backward.

    Of a mixture of experts, only what a token passes through counts. A matrix takes 2 operations per weight and token forward and 2 for
    the gradient of its input; its own gradient, 2 more, only where it is trained. Below the lowest layer that learns there are no
    gradients. The output head is computed on labelled tokens only, and once more where it is trained; the embedding's look-up is free.
    Attention is counted without leaving the masked half out, as plain kernels do.
    """
    trained = 2 if technique.type == "full" else 0
    below = 0 if technique.added_tokens else min(adapted_layers(model, technique)) / model.layers
    body = (4 - 2 * below + trained + (2 if checkpointing else 0)) * model.active_body_parameters
    adapters = 6 * _active_adapters(model, technique)
    own_rows = 4 * len(technique.added_tokens) * model.hidden
    attention = (12 - 8 * below) * model.layers * model.query_width * tokens.per_row
    head = (4 + 2 * trained) * model.vocabulary * model.hidden
    return tokens.all * (body + adapters + attention) + tokens.labelled * (head + own_rows)


def forward_operations(model: Architecture, technique: Technique, tokens: Tokens, *, untrained: bool = False) -> float:
    """Of passes without gradients: by count a third of training all weights, and half of training adapters.

    Forward alone took 0.42 to 0.50 of the CPU time of LoRA's two directions (models of 64 and 512 hidden, one core).

    Args:
        untrained: the base model alone, without adapters.
    """
    adapters = 0 if untrained else 2 * _active_adapters(model, technique)
    attention = 4 * model.layers * model.query_width * tokens.per_row
    head = 2 * model.vocabulary * model.hidden
    return tokens.all * (2 * model.active_body_parameters + adapters + attention) + tokens.labelled * head


def _active_adapters(model: Architecture, technique: Technique) -> float:
    """Those that one token passes through."""
    share = model.experts_per_token / model.experts if model.experts else 1.0
    return sum(matrix.numbers * (share if matrix.name.startswith("experts.") else 1.0) for matrix in adapted_matrices(model, technique))


def training_seconds(
    model: Architecture, technique: Technique, tokens: Tokens, *, epochs: float, at: Speed, checkpointing: bool = False
) -> float:
    """Predicted seconds of the training loop."""
    operations = training_operations(model, technique, tokens, checkpointing=checkpointing)
    return epochs * _slowdown(technique, at) * _seconds(model, operations, passes=tokens.passes, at=at)


def forward_seconds(model: Architecture, technique: Technique, tokens: Tokens, *, at: Speed, untrained: bool = False) -> float:
    """Predicted seconds of passes without gradients; see `forward_operations`."""
    operations = forward_operations(model, technique, tokens, untrained=untrained)
    asked = technique.model_copy(update={"use_dora": False}) if untrained else technique
    return _slowdown(asked, at) * _seconds(model, operations, passes=FORWARD_START * tokens.passes, at=at)


def _slowdown(technique: Technique, at: Speed) -> float:
    packed = QLORA_SLOWDOWN[at.kind] if technique.type == "qlora" else 1.0
    return packed * (DORA_SLOWDOWN if technique.use_dora else 1.0)


def _seconds(model: Architecture, operations: float, *, passes: float, at: Speed) -> float:
    computing = operations / at.rate
    starting = passes * (PASS_SECONDS + model.layers * LAYER_SECONDS)
    # An accelerator computes while the next operations are started.
    return computing + starting if at.kind == "cpu" else max(computing, starting)


def kilowatt_hours(seconds: float, *, at: Speed) -> float | None:
    """Energy at full load; None when the power is not known."""
    return None if at.watts is None else at.watts * seconds / 3.6e6
