"""The loss of a causal language model, computed on labelled positions only and without ever holding the logits.

Letters: B rows, T tokens, D hidden size, N labelled tokens, V vocabulary.

A prompt needs no logits. For the answer the vocabulary is walked in tiles (`head.py`), with a running maximum and sum, as flash attention
walks its keys: two matrix products per tile give the loss and its gradient in one pass. `test_losses.py` compares with Hugging Face's own
loss and with TRL's.
"""
# ruff: noqa: N803, N806 (capitals name the shape of a tensor)

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fine_tune_pipeline.programs.batches import IGNORED, ROWS
from fine_tune_pipeline.programs.head import TILE_TOKENS, Head, base_of, head_of, tiles


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
    for logits, slope, rows, start in tiles(hidden_ND, head):
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


def _slope(logits_N: Tensor, softcap: float | None) -> Tensor:
    """Derivative of the softcap where it gave these logits."""
    return torch.ones_like(logits_N) if softcap is None else 1.0 - (logits_N / softcap).square()


def _head_gradient(hidden_ND: Tensor, targets_N: Tensor, log_sum_N: Tensor, *, head: Head, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of the head's weight [V, D] and bias [V]."""
    grad_weight = torch.empty_like(head.weight)
    grad_bias = None if head.bias is None else torch.empty_like(head.bias)
    for logits, slope, _, start in tiles(hidden_ND, head):
        share = logits.sub_(log_sum_N[:, None]).exp_()
        inside = ((targets_N >= start) & (targets_N < start + TILE_TOKENS)).nonzero().squeeze(1)
        share[inside, targets_N[inside] - start] -= 1.0
        share = share.mul_(grad * head.scale) if slope is None else share.mul_(slope).mul_(grad * head.scale)
        grad_weight[start : start + TILE_TOKENS] = share.to(hidden_ND.dtype).t() @ hidden_ND
        if grad_bias is not None:
            grad_bias[start : start + TILE_TOKENS] = share.sum(0)
    return grad_weight, grad_bias
