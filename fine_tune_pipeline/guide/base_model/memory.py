"""How much memory training takes, by a closed formula, before anything is loaded.

Source: the shares of weights, adapters, optimizer and activations as eager PyTorch keeps them with flash-like attention. At most 12 % above
and never below four peaks that torchtune publishes; within 12 % of five measured on two cores with Gemma 3 270M (`test_memory.py`).
Preflight measures the truth and shows the ratio.
"""

from dataclasses import dataclass

from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.programs.requests import Technique

GIB = 1 << 30

NF4_BYTES = 0.516
"""Per weight: 4 bits and the scales of double quantisation."""

TILE_TOKENS = 4096
"""Entries of the vocabulary whose logits are held at once: the loss walks the vocabulary in tiles and never holds them all."""

FIXED_BYTES = {"cpu": int(1.2 * GIB), "cuda": int(1.5 * GIB)}
"""Interpreter, libraries and the allocator's slack on a CPU; context and allocator of an accelerator."""

ADAPTER_SHARE = 1.4
"""Activations with adapters over those without: each adapted matrix keeps its input once more (289 against 206 KiB per token and layer of
an 8 B model)."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of one training step, by what holds them."""

    weights: int
    trained: int
    activations: int
    logits: int
    fixed: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations + self.logits + self.fixed


def training_memory(
    model: Architecture,
    technique: Technique,
    *,
    number_bytes: int,
    tokens: int,
    labelled_tokens: int,
    checkpointing: bool = False,
    device: str = "cpu",
) -> Memory:
    """The predicted peak.

    Args:
        number_bytes: of one weight or activation: 4 in float32, 2 in bfloat16.
        tokens: in one forward pass, padding included.
        labelled_tokens: of these, the ones that the loss is computed on.
        checkpointing: activations are computed again in the backward pass, so only each layer's input is kept.
        device: cpu or cuda.
    """
    return Memory(
        weights=_weights(model, technique, number_bytes=number_bytes),
        trained=_trained(model, technique),
        activations=tokens * _activations_per_token(model, technique, number_bytes=number_bytes, checkpointing=checkpointing),
        # As they come out of the product, and in float32.
        logits=labelled_tokens * min(TILE_TOKENS, model.vocabulary) * (number_bytes + 4),
        fixed=FIXED_BYTES[device],
    )


def trainable_parameters(model: Architecture, technique: Technique) -> int:
    """How many numbers the technique trains."""
    return model.parameters if technique.type == "full" else model.lora_parameters(technique.rank)


def _weights(model: Architecture, technique: Technique, *, number_bytes: int) -> int:
    match technique.type:
        case "qlora":
            return int(NF4_BYTES * model.body_parameters) + number_bytes * model.embedding_parameters
        case "lora":
            return number_bytes * model.parameters
        case "full":
            # float32 whatever it computes in: a small update would be rounded away.
            return 4 * model.parameters


def _trained(model: Architecture, technique: Technique) -> int:
    """Adapters in float32, with a gradient and two moments; of full tuning, the latter three of every weight."""
    if technique.type == "full":
        return (4 + 8) * model.parameters
    return (4 + 4 + 8) * model.lora_parameters(technique.rank)


def _activations_per_token(model: Architecture, technique: Technique, *, number_bytes: int, checkpointing: bool) -> int:
    q, k, h, i = model.query_width, model.key_width, model.hidden, model.mlp_width
    share = 1.0 if technique.type == "full" else ADAPTER_SHARE
    layer = int(share * number_bytes * (8 * h + (q + k) + (q + 2 * k) + q + 4 * i))
    return number_bytes * h * model.layers + layer if checkpointing else layer * model.layers
