"""What one layer keeps of a token for the backward pass: eager PyTorch, attention that keeps no scores, adapters by PEFT.

Letters: h hidden width, q and k the widths of all query and key heads, i the width of an MLP, r a rank, b bytes of a number that the
model computes with, a bytes of a learned one.

Counted from the tensors that the real code saves (`test_memory_probe.py` compares): a norm its input in float32; attention queries, keys,
values and output; each adapted or trained matrix its input, shared where the numbers are of one format,
else cast once for each matrix; the gated MLP gate, activated gate and up.
"""

from fine_tune_pipeline.guide.base_model.adapted import DOWN, GATE_UP, OUTPUT, QKV, adapted_names
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.programs.requests import Technique

NORM_BYTES = 4
"""Norms compute in float32."""

_MORE_NORMS = {"gemma2": (4, False), "gemma3": (4, True), "gemma3_text": (4, True), "qwen3": (2, True), "qwen3_moe": (2, True)}
"""Family -> norms of the residual width in a layer, and whether queries and keys are normalised too. Others: two, and no."""


def layer_bytes(
    model: Architecture, technique: Technique, *, number_bytes: int, learned_bytes: int, experts: bool, adapted: bool = True
) -> int:
    """Of one token in one layer, with experts or without, with adapters or without."""
    b, a, h = number_bytes, learned_bytes, model.hidden
    names = adapted_names(model, technique) if adapted else frozenset()
    inputs = h * _copies(len(names & set(QKV)), b, a) + (model.query_width if OUTPUT in names else 0)
    attention = b * (2 * model.query_width + 2 * model.key_width) + a * inputs
    if experts:
        mlp = b * _visit_width(model, technique, learns=adapted) * model.experts_per_token
        mlp += _mlp_bytes(h, model.shared_expert_width, names, b=b, a=a)
    else:
        mlp = _mlp_bytes(h, model.mlp_width, names, b=b, a=a)
    return attention + mlp + _norms(model, technique) + _adapters(model, technique, names, b=b, a=a, experts=experts)


def effective_expert_bytes(model: Architecture, technique: Technique, *, number_bytes: int) -> int:
    """Of one layer, whatever the tokens: PEFT adds the adapters of experts to the weights, and keeps the sum for the backward pass."""
    return number_bytes * 3 * model.experts * model.hidden * model.expert_width if technique.expert_rank else 0


def workspace_bytes(model: Architecture, technique: Technique, *, number_bytes: int) -> int:
    """Held for a moment inside one adapted matrix product, at most."""
    h, widest = model.hidden, max(model.mlp_width, model.query_width)
    unpacked = number_bytes * h * widest if technique.type == "qlora" else 0
    if not technique.use_dora:
        return unpacked
    # The adapter's product is made by sending an identity matrix through it, and is added to a copy of the weights for their lengths.
    return unpacked + 4 * widest * widest + h * widest * (4 + 3 * number_bytes)


def _copies(matrices: int, b: int, a: int) -> int:
    return matrices if a != b else min(matrices, 1)


def _mlp_bytes(h: int, i: int, names: frozenset[str], *, b: int, a: int) -> int:
    return b * 3 * i + a * ((i if DOWN in names else 0) + h * _copies(len(names & set(GATE_UP)), b, a)) if i else 0


def _visit_width(model: Architecture, technique: Technique, *, learns: bool) -> int:
    """Numbers that one visit of one expert keeps: its output for the router's weight; if it learns, its input and product too."""
    learns = learns and (technique.type == "full" or technique.expert_rank > 0)
    return 4 * model.expert_width + 2 * model.hidden if learns else 3 * model.expert_width + model.hidden


def _norms(model: Architecture, technique: Technique) -> int:
    norms, of_heads = _MORE_NORMS.get(model.family, (2, False))
    width = norms * model.hidden + (model.query_width + model.key_width if of_heads else 0)
    # A norm that learns keeps the normalised numbers too.
    return NORM_BYTES * width * (2 if technique.type == "full" else 1)


def _adapters(model: Architecture, technique: Technique, names: frozenset[str], *, b: int, a: int, experts: bool) -> int:
    """Between the two matrices of each adapter; with DoRA, what it and the matrix itself give."""
    if technique.type == "full":
        return 0
    i, h, k = model.shared_expert_width if experts else model.mlp_width, model.hidden, model.key_width
    out = {"q_proj": model.query_width, "k_proj": k, "v_proj": k, OUTPUT: h} | (dict.fromkeys(GATE_UP, i) | {DOWN: h} if i else {})
    present = [width for name, width in out.items() if name in names]
    return a * technique.rank * len(present) + ((a + b) * sum(present) if technique.use_dora else 0)
