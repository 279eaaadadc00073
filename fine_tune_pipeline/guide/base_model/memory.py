"""How much memory training takes, by a closed formula, before anything is loaded.

Within 10 % of five peaks that torchtune publishes and of five measured on two cores with Gemma 3 270M (`test_memory.py`). Preflight
measures the truth, and every training corrects the next prediction (`technique/calibration.py`).
"""

from dataclasses import dataclass

from fine_tune_pipeline.guide.base_model.activations import effective_expert_bytes, layer_bytes, workspace_bytes
from fine_tune_pipeline.guide.base_model.adapted import adapted_layers, adapted_matrices
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.programs.requests import Technique

GIB = 1 << 30

NF4_BYTES = 0.516
"""Per weight: 4 bits and the scales of double quantisation."""

TILE_TOKENS = 4096
"""Entries of the vocabulary whose logits are held at once: the loss walks the vocabulary in tiles and never holds them all."""

FIXED_BYTES = {"cpu": int(0.95 * GIB), "cuda": int(1.5 * GIB)}
"""Interpreter, libraries and their threads' buffers on a CPU; context and allocator of an accelerator."""

SLACK = {"cpu": 1.4, "cuda": 1.0}
"""Memory held over activations kept: on a CPU the C library keeps freed blocks between others (measured 1.2 to 1.5, before
trainings were started with the settings of `heap.py`). The caching allocator of an accelerator is in `FIXED_BYTES`."""


@dataclass(frozen=True)
class Learned:
    """Bytes for every number that learns: itself, its gradient, and the optimizer's two moments."""

    weight: int
    gradient: int
    moments: int


FLOAT32 = Learned(weight=4, gradient=4, moments=8)
"""As this project trains, whatever it computes in: a small update would be rounded away."""

BFLOAT16 = Learned(weight=2, gradient=2, moments=4)
"""As torchtune's recipes for one device train."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of one training step, by what holds them."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    workspace: int
    fixed: int
    gathered: int = 0

    @property
    def proportional(self) -> int:
        """All that grows with model and text."""
        return self.total - self.fixed

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def training_memory(
    model: Architecture,
    technique: Technique,
    *,
    number_bytes: int,
    tokens: int,
    labelled_tokens: int,
    checkpointing: bool = False,
    device: str = "cpu",
    learned: Learned = FLOAT32,
    parts: int = 1,
) -> Memory:
    """The predicted peak, of one process if there are several.

    Args:
        number_bytes: of one frozen weight or activation: 4 in float32, 2 in bfloat16.
        tokens: in one forward pass, padding included.
        labelled_tokens: of these, the ones that the loss is computed on.
        checkpointing: activations are computed again in the backward pass, so only each layer's input is kept.
        device: cpu or cuda.
        learned: how what learns is kept.
        parts: processes that the model is cut for (fsdp2): each keeps its part of weights, and of gradients and optimizer where all weights
            learn. Adapters and activations are whole in each.
    """
    # Where all weights learn, the model computes with them as they are kept.
    number_bytes = learned.weight if technique.type == "full" else number_bytes
    kept = _activations(
        model, technique, tokens=tokens, checkpointing=checkpointing, number_bytes=number_bytes, learned_bytes=learned.weight
    )
    trained = trainable_parameters(model, technique)
    own = -(-trained // parts) if technique.type == "full" else trained
    return Memory(
        weights=-(-_weights(model, technique, number_bytes=number_bytes) // parts),
        adapter=0 if technique.type == "full" else learned.weight * trained * (2 if _keeps_start(technique, device) else 1),
        gradients=learned.gradient * own,
        optimizer=learned.moments * own,
        # The embedding's second gradient comes when the activations are gone.
        activations=max(
            int(SLACK[device] * kept),
            _second_gradient(model, technique, learned),
            _whole_embedding(model, technique, number_bytes=number_bytes),
        ),
        # As they come out of the product, and in float32; and of the hidden states before them the float32 gradient, twice.
        logits=labelled_tokens * (min(TILE_TOKENS, model.vocabulary) * (number_bytes + 4) + 8 * model.hidden),
        workspace=workspace_bytes(model, technique, number_bytes=number_bytes),
        fixed=FIXED_BYTES[device],
        gathered=0 if parts == 1 else _gathered(model, technique, learned, number_bytes=number_bytes),
    )


def trainable_parameters(model: Architecture, technique: Technique) -> int:
    """How many numbers the technique trains. Those of experts that are not chosen count: they are held, as zeros."""
    if technique.type == "full":
        return model.parameters
    matrices = list(adapted_matrices(model, technique))
    lengths = sum(matrix.count * matrix.rows for matrix in matrices) if technique.use_dora else 0
    return sum(matrix.numbers for matrix in matrices) + lengths + token_parameters(model, technique)


def token_parameters(model: Architecture, technique: Technique) -> int:
    """Of the rows of added tokens: in the embedding, and in the head if that is another matrix."""
    return len(technique.added_tokens) * model.hidden * (1 if model.tied else 2)


def _whole_embedding(model: Architecture, technique: Technique, *, number_bytes: int) -> int:
    """PEFT lays the rows of added tokens over a copy of the embedding, before there are activations; the gradient of that copy, made when
    they are gone, is as large."""
    return number_bytes * model.vocabulary * model.hidden if technique.added_tokens else 0


def _keeps_start(technique: Technique, device: str) -> bool:
    """What PiSSA has taken out of the weights is kept to the end, in the main memory."""
    return technique.use_pissa and device == "cpu"


def _weights(model: Architecture, technique: Technique, *, number_bytes: int) -> int:
    if technique.type != "qlora":
        return number_bytes * model.parameters
    # bitsandbytes packs linear modules; fused experts are none.
    packed = model.body_parameters - model.expert_parameters
    return int(NF4_BYTES * packed) + number_bytes * (model.embedding_parameters + model.expert_parameters)


def _gathered(model: Architecture, technique: Technique, learned: Learned, *, number_bytes: int) -> int:
    """What a process has whole for a while: embedding and head all through a pass, the largest layer and the one that is fetched meanwhile;
    where all weights learn, the gradients of the embedding and of one layer, before they are shared out."""
    gradients = learned.gradient * (model.embedding_parameters + model.largest_layer_parameters) if technique.type == "full" else 0
    return number_bytes * (model.embedding_parameters + 2 * model.largest_layer_parameters) + gradients


def _second_gradient(model: Architecture, technique: Technique, learned: Learned) -> int:
    """A tied embedding gets one gradient as output head and one as embedding."""
    return learned.gradient * model.vocabulary * model.hidden if technique.type == "full" and model.tied else 0


def _activations(
    model: Architecture, technique: Technique, *, tokens: int, checkpointing: bool, number_bytes: int, learned_bytes: int
) -> int:
    adapted = set(adapted_layers(model, technique))
    # Below the lowest layer that learns, nothing is kept; the embedding is below all of them.
    lowest = 0 if technique.added_tokens else min(adapted)
    kept = {
        layer: _layer(model, technique, layer, adapted=layer in adapted, tokens=tokens, b=number_bytes, a=learned_bytes)
        for layer in range(lowest, model.layers)
    }
    if checkpointing:
        return tokens * number_bytes * model.hidden * model.layers + max(kept.values())
    return sum(kept.values())


def _layer(model: Architecture, technique: Technique, layer: int, *, adapted: bool, tokens: int, b: int, a: int) -> int:
    experts = bool(model.experts) and layer >= model.dense_layers
    held = effective_expert_bytes(model, technique, number_bytes=b) if experts and adapted else 0
    return held + tokens * layer_bytes(model, technique, number_bytes=b, learned_bytes=a, experts=experts, adapted=adapted)
