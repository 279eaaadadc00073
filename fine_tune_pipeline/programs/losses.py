"""The loss of a causal language model, computed on labelled positions only and without ever holding the logits.

Letters: B rows, T tokens, D hidden size, N labelled tokens, V vocabulary.

The vocabulary head is most of the matrix work of a small model (63 % of Gemma 3 270M), and a prompt needs none of it. The vocabulary is
walked in tiles that stay in the cache, with a running maximum and sum, as flash attention walks its keys: two matrix products per tile
give the loss and its gradient in one pass. `test_losses.py` compares with Hugging Face's own loss and with TRL's.
"""
# ruff: noqa: N803, N806 (capitals name the shape of a tensor)

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PretrainedConfig, PreTrainedModel

from fine_tune_pipeline.programs.batches import IGNORED, ROWS

TILE_TOKENS = 4096
"""Vocabulary entries per tile: 310 rows of float32 logits are 5 MB. Between 1024 and 16384 the time changes by 5 % (AVX-512 CPU)."""


@dataclass(frozen=True)
class Head:
    """How hidden states become logits: `softcap * tanh(scale * (hidden @ weight.T + bias) / softcap)`; without softcap as they are.

    `weight` is [V, D], `bias` [V] or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


def base_of(model: nn.Module) -> PreTrainedModel:
    """The causal language model inside adapters, or the model itself."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    return base


def head_of(model: nn.Module) -> Head:
    """The output head of a causal language model, adapters or not."""
    base = base_of(model)
    linear = base.get_output_embeddings()
    assert linear is not None
    config = base.config.get_text_config()
    return Head(linear.weight, getattr(linear, "bias", None), _logit_scale(config), getattr(config, "final_logit_softcapping", None))


def _logit_scale(config: PretrainedConfig) -> float:
    """The factor that some architectures put on their logits, each under a name of its own (Cohere, Falcon-H1, Granite)."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if (scale := getattr(config, name, None)) is not None:
            return float(scale)
    divisor = getattr(config, "logits_scaling", None)
    return 1.0 if divisor is None else 1.0 / float(divisor)


def batch_nll(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Summed negative log-likelihood of the labelled tokens of a micro-batch: a scalar, in nats, float32.

    Args:
        model: a causal language model, with or without adapters.
        batch: of `Collate`, on the model's device.
    """
    inputs = {name: value for name, value in batch.items() if name not in ("labels", ROWS)}
    hidden_BTD = base_of(model).base_model(**inputs, use_cache=False).last_hidden_state
    hidden_ND, targets_N = labelled(hidden_BTD, batch["labels"])
    return labelled_nll(hidden_ND, targets_N, head_of(model))


def labelled(hidden_BTD: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states [N, D] from which a labelled token is predicted, and those tokens [N]: the token at t is predicted at t - 1."""
    targets = labels_BT[:, 1:].reshape(-1)
    places_N = (targets != IGNORED).nonzero().squeeze(1)
    hidden = hidden_BTD[:, :-1].reshape(-1, hidden_BTD.shape[-1])
    return hidden.index_select(0, places_N), targets.index_select(0, places_N)


def labelled_nll(hidden_ND: Tensor, targets_N: Tensor, head: Head) -> Tensor:
    """Summed cross-entropy: a scalar, in nats, float32, differentiable in the hidden states and in the head's weight and bias.

    Args:
        hidden_ND: float32 or bfloat16.
        targets_N: ids of the tokens that follow, int64.
        head: its weight may be frozen; then no gradient of its size is made.
    """
    loss = _TiledNll.apply(hidden_ND, head.weight, head.bias, targets_N, head.scale, head.softcap)
    assert isinstance(loss, Tensor)
    return loss


class _TiledNll(torch.autograd.Function):
    """Cross-entropy over tiles of the vocabulary.

    forward: with the running maximum m and sum s of exp(logit - m), the unnormalised gradient sum(exp(logit - m) * weight) is carried along
    and rescaled when m grows. backward: scales it; for a head that learns, the tiles are computed once more, now with the final m and s.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        head = Head(weight_VD, bias_V, scale, softcap)
        hidden_ND = hidden_ND.to(_compute_dtype(weight_VD))
        with torch.autocast(hidden_ND.device.type, enabled=False):
            log_sum_N, logits_N, grad_ND = _walk(hidden_ND, targets_N, head, wants_gradient=ctx.needs_input_grad[0])
        if grad_ND is not None:
            rows_ND = weight_VD.index_select(0, targets_N).to(hidden_ND.dtype)
            grad_ND = (grad_ND - _slope(logits_N, softcap)[:, None] * rows_ND.float()) * scale
        ctx.head = head
        ctx.save_for_backward(hidden_ND, targets_N, log_sum_N, grad_ND)
        return (log_sum_N - logits_N).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden_ND, targets_N, log_sum_N, grad_ND = ctx.saved_tensors
        grad_hidden = None if grad_ND is None else grad_ND * grad
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_weight, grad_bias = _head_gradient(hidden_ND, targets_N, log_sum_N, head=ctx.head, grad=grad)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _walk(hidden_ND: Tensor, targets_N: Tensor, head: Head, *, wants_gradient: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """log(sum(exp(logits))) [N], the targets' logits [N], and the softmax-weighted sum of head rows [N, D]: the first's gradient but for
    the scale.

    The targets' logits are taken from the tiles: in bfloat16 the same product made apart is rounded otherwise, and a loss could be
    negative.
    """
    count, width = hidden_ND.shape
    peak = hidden_ND.new_full((count, 1), -torch.inf, dtype=torch.float32)
    total = torch.zeros_like(peak)
    wanted = torch.zeros_like(peak)
    weighted = hidden_ND.new_zeros((count, width), dtype=torch.float32) if wants_gradient else None
    room = hidden_ND.new_empty(count * min(TILE_TOKENS, head.weight.shape[0]))
    for start in range(0, head.weight.shape[0], TILE_TOKENS):
        logits, slope, rows = _tile(hidden_ND, head, start=start, room=room)
        inside_N1 = ((targets_N >= start) & (targets_N < start + TILE_TOKENS))[:, None]
        wanted = torch.where(inside_N1, logits.gather(1, (targets_N[:, None] - start).clamp(0, rows.shape[0] - 1)), wanted)
        higher = torch.maximum(peak, logits.amax(1, keepdim=True))
        shrink = torch.exp(peak - higher)
        logits.sub_(higher).exp_()
        total.mul_(shrink).add_(logits.sum(1, keepdim=True))
        if weighted is not None:
            share = logits if slope is None else logits.mul_(slope)
            weighted.mul_(shrink)
            weighted = weighted.addmm_(share, rows) if rows.dtype == torch.float32 else weighted.add_(share.to(rows.dtype) @ rows)
        peak = higher
    return (peak + total.log()).squeeze(1), wanted.squeeze(1), None if weighted is None else weighted.div_(total)


def _tile(hidden_ND: Tensor, head: Head, *, start: int, room: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Logits of one tile in float32 [N, tile], the slope of the softcap there (None without), and the head's rows [tile, D]."""
    rows = head.weight[start : start + TILE_TOKENS].to(hidden_ND.dtype)
    shape = (hidden_ND.shape[0], rows.shape[0])
    # One buffer for all tiles: fresh memory for each costs page faults, a third of the time of this function.
    logits = torch.mm(hidden_ND, rows.t(), out=room[: shape[0] * shape[1]].view(shape)).float()
    if head.bias is not None:
        logits.add_(head.bias[start : start + TILE_TOKENS])
    if head.scale != 1.0:
        logits.mul_(head.scale)
    return *_capped(logits, head.softcap), rows


def _capped(logits: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Logits after the softcap, in place, and the derivative of the softcap."""
    if softcap is None:
        return logits, None
    bent = logits.div_(softcap).tanh_()
    slope = 1.0 - bent.square()
    return bent.mul_(softcap), slope


def _slope(logits_N: Tensor, softcap: float | None) -> Tensor:
    """Derivative of the softcap where it gave these logits."""
    return torch.ones_like(logits_N) if softcap is None else 1.0 - (logits_N / softcap).square()


def _head_gradient(hidden_ND: Tensor, targets_N: Tensor, log_sum_N: Tensor, *, head: Head, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of the head's weight [V, D] and bias [V]."""
    grad_weight = torch.empty_like(head.weight)
    grad_bias = None if head.bias is None else torch.empty_like(head.bias)
    room = hidden_ND.new_empty(hidden_ND.shape[0] * min(TILE_TOKENS, head.weight.shape[0]))
    for start in range(0, head.weight.shape[0], TILE_TOKENS):
        logits, slope, _ = _tile(hidden_ND, head, start=start, room=room)
        share = logits.sub_(log_sum_N[:, None]).exp_()
        inside = ((targets_N >= start) & (targets_N < start + TILE_TOKENS)).nonzero().squeeze(1)
        share[inside, targets_N[inside] - start] -= 1.0
        share = share.mul_(grad * head.scale) if slope is None else share.mul_(slope).mul_(grad * head.scale)
        grad_weight[start : start + TILE_TOKENS] = share.to(hidden_ND.dtype).t() @ hidden_ND
        if grad_bias is not None:
            grad_bias[start : start + TILE_TOKENS] = share.sum(0)
    return grad_weight, grad_bias
