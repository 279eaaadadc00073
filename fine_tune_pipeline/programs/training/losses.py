"""The loss of a causal language model, computed on labelled positions only and without ever holding the logits.

Letters: B rows, T tokens, D hidden size, N labelled tokens, V vocabulary.

A prompt needs no logits. For the answer the vocabulary is walked in tiles (`head.py`), with a running maximum and sum, as flash attention
walks its keys: two matrix products per tile give the loss and its gradient in one pass. Label smoothing costs the same walk a sum over each
tile. `test_losses.py` and `test_own_losses.py` compare with torch's loss and with TRL's.

The router of a mixture of experts has no loss of its own here (transformers adds one where `output_router_logits` is set): it is a mean
over each micro-batch, so the place of a training would change what it computes.
"""
# ruff: noqa: N803, N806, N815 (capitals name the shape of a tensor)

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fine_tune_pipeline.programs.head import TILE_TOKENS, Head, base_of, head_of, of_rows, tiles
from fine_tune_pipeline.programs.training.batches import IGNORED, ROWS


class SummedLoss(NamedTuple):
    """Over the labelled tokens of a micro-batch, in nats, float32: `trained` is differentiable; `nll`, the plain negative log-likelihood,
    is to be reported. Without label smoothing they are equal."""

    trained: Tensor
    nll: Tensor


def batch_nll(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Summed negative log-likelihood of the labelled tokens of a micro-batch: a scalar, in nats, float32.

    Args:
        model: a causal language model, with or without adapters.
        batch: of `Collate`, on the model's device.
    """
    return batch_loss(model, batch).trained


def batch_loss(model: nn.Module, batch: dict[str, Any], *, label_smoothing: float = 0.0) -> SummedLoss:
    """The loss to train on and the one to report.

    Args:
        model: a causal language model, with or without adapters.
        batch: of `Collate`, on the model's device.
        label_smoothing: the share e of (1 - e) * nll + e * (mean over the vocabulary of -log p), as in torch's `cross_entropy`.
    """
    return labelled_loss(*_states(model, batch), head_of(model), label_smoothing=label_smoothing)


def batch_token_nll(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """As `batch_nll`, of each labelled token: [N], row after row."""
    return token_nll(*_states(model, batch), head_of(model))


def _states(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    inputs = {name: value for name, value in batch.items() if name not in ("labels", ROWS)}
    return labelled(base_of(model).base_model(**inputs, use_cache=False).last_hidden_state, batch["labels"])


def labelled(hidden_BTD: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states [N, D] from which a labelled token is predicted, and those tokens [N]: the token at t is predicted at t - 1."""
    targets = labels_BT[:, 1:].reshape(-1)
    places_N = (targets != IGNORED).nonzero().squeeze(1)
    hidden = hidden_BTD[:, :-1].reshape(-1, hidden_BTD.shape[-1])
    return hidden.index_select(0, places_N), targets.index_select(0, places_N)


def labelled_nll(hidden_ND: Tensor, targets_N: Tensor, head: Head) -> Tensor:
    """Summed cross-entropy: a scalar, in nats, float32, differentiable in the hidden states and in the head's weight and bias."""
    return labelled_loss(hidden_ND, targets_N, head).trained


def labelled_loss(hidden_ND: Tensor, targets_N: Tensor, head: Head, *, label_smoothing: float = 0.0) -> SummedLoss:
    """The summed loss, differentiable in the hidden states and in the head's weight and bias.

    Args:
        hidden_ND: float32 or bfloat16.
        targets_N: ids of the tokens that follow, int64.
        head: its weight may be frozen; then no gradient of its size is made.
        label_smoothing: see `batch_loss`.
    """
    trained_N, nll_N = _TiledLoss.apply(*_learnable(hidden_ND, head), targets_N, head, label_smoothing)
    return SummedLoss(trained_N.sum(), nll_N.sum())


def token_nll(hidden_ND: Tensor, targets_N: Tensor, head: Head) -> Tensor:
    """As `labelled_nll`, of each token: [N]."""
    nll_N, _ = _TiledLoss.apply(*_learnable(hidden_ND, head), targets_N, head, 0.0)
    assert isinstance(nll_N, Tensor)
    return nll_N


def _learnable(hidden_ND: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """What a gradient may be asked of; rows that stand instead of the head's learn only while all others rest."""
    assert head.own is None or not head.weight.requires_grad
    return hidden_ND, head.weight, head.bias, None if head.own is None else head.own.values


class _TiledLoss(torch.autograd.Function):
    """Cross-entropy of each token, over tiles of the vocabulary.

    forward: with the running maximum m and sum s of exp(logit - m), the unnormalised gradient sum(exp(logit - m) * weight) is carried along
    and rescaled when m grows. backward: scales it; for a head that learns, the tiles are computed once more, now with the final m and s;
    where only rows of its own learn, their logits alone.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        own_KD: Tensor | None,
        targets_N: Tensor,
        head: Head,
        smoothing: float,
    ) -> tuple[Tensor, Tensor]:
        hidden_ND = hidden_ND.to(_compute_dtype(weight_VD))
        with torch.autocast(hidden_ND.device.type, enabled=False):
            seen = _walk(hidden_ND, targets_N, head, wants_gradient=ctx.needs_input_grad[0], wants_mean=smoothing > 0)
            grad_ND = _hidden_gradient(seen, targets_N, head, dtype=hidden_ND.dtype, smoothing=smoothing)
        ctx.head, ctx.smoothing = head, smoothing
        ctx.save_for_backward(hidden_ND, targets_N, seen.log_sum, grad_ND)
        nll_N = seen.log_sum - seen.wanted
        even_N = nll_N if seen.mean is None else seen.log_sum - seen.mean
        ctx.mark_non_differentiable(nll_N)
        return (1.0 - smoothing) * nll_N + smoothing * even_N, nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden_ND, targets_N, log_sum_N, grad_ND = ctx.saved_tensors
        grad_N1 = grad_N[:, None]
        grad_hidden = None if grad_ND is None else grad_ND * grad_N1
        grad_weight = grad_bias = grad_own = None
        score = _Score(targets_N, log_sum_N, grad_N1, head=ctx.head, smoothing=ctx.smoothing)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_weight, grad_bias = _head_gradient(hidden_ND, score)
        if ctx.needs_input_grad[3]:
            grad_own = _own_gradient(hidden_ND, score)
        return grad_hidden, grad_weight, grad_bias, grad_own, None, None, None


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class _Seen(NamedTuple):
    """What one walk over the vocabulary finds: `log_sum` of exp(logit), the logits `wanted` by the targets, all logits' `mean`, each [N];
    and of head rows, [N, D] but for the scale, the sum `weighted` by softmax and the `even` mean. None where not asked for."""

    log_sum: Tensor
    wanted: Tensor
    mean: Tensor | None
    weighted: Tensor | None
    even: Tensor | None


def _walk(hidden_ND: Tensor, targets_N: Tensor, head: Head, *, wants_gradient: bool, wants_mean: bool) -> _Seen:
    """The targets' logits are taken from the tiles: in bfloat16 the same product made apart is rounded otherwise, and a loss could be
    negative.
    """
    count, width = hidden_ND.shape
    peak = hidden_ND.new_full((count, 1), -torch.inf, dtype=torch.float32)
    total = torch.zeros_like(peak)
    wanted = torch.zeros_like(peak)
    mean = torch.zeros_like(peak) if wants_mean else None
    weighted = hidden_ND.new_zeros((count, width), dtype=torch.float32) if wants_gradient else None
    even = torch.zeros_like(weighted) if weighted is not None and wants_mean else None
    for logits, slope, rows, start in tiles(hidden_ND, head):
        inside_N1 = ((targets_N >= start) & (targets_N < start + TILE_TOKENS))[:, None]
        wanted = torch.where(inside_N1, logits.gather(1, (targets_N[:, None] - start).clamp(0, rows.shape[0] - 1)), wanted)
        if mean is not None:
            mean += logits.sum(1, keepdim=True) / head.weight.shape[0]
        if even is not None:
            # Without a softcap every hidden state has the same mean of rows.
            even += (rows.sum(0, dtype=torch.float32) if slope is None else slope.to(rows.dtype) @ rows) / head.weight.shape[0]
        higher = torch.maximum(peak, logits.amax(1, keepdim=True))
        shrink = torch.exp(peak - higher)
        logits.sub_(higher).exp_()
        total.mul_(shrink).add_(logits.sum(1, keepdim=True))
        if weighted is not None:
            share = logits if slope is None else logits.mul_(slope)
            weighted.mul_(shrink)
            weighted = weighted.addmm_(share, rows) if rows.dtype == torch.float32 else weighted.add_(share.to(rows.dtype) @ rows)
        peak = higher
    log_sum_N = (peak + total.log()).squeeze(1)
    mean_N = None if mean is None else mean.squeeze(1)
    return _Seen(log_sum_N, wanted.squeeze(1), mean_N, None if weighted is None else weighted.div_(total), even)


def _hidden_gradient(seen: _Seen, targets_N: Tensor, head: Head, *, dtype: torch.dtype, smoothing: float) -> Tensor | None:
    """Of the loss in the hidden states [N, D], float32; overwrites `seen.weighted`."""
    if seen.weighted is None:
        return None
    rows_ND = head.rows(targets_N, dtype=dtype).float()
    grad_ND = seen.weighted.sub_((1.0 - smoothing) * _slope(seen.wanted, head.softcap)[:, None] * rows_ND)
    if seen.even is not None:
        grad_ND.sub_(seen.even, alpha=smoothing)
    return grad_ND.mul_(head.scale)


def _slope(logits_N: Tensor, softcap: float | None) -> Tensor:
    """Derivative of the softcap where it gave these logits."""
    return torch.ones_like(logits_N) if softcap is None else 1.0 - (logits_N / softcap).square()


@dataclass(frozen=True)
class _Score:
    """What a gradient in the head's rows is made of, beside the hidden states."""

    targets_N: Tensor
    log_sum_N: Tensor
    grad_N1: Tensor
    head: Head
    smoothing: float

    def gradient(self, logits: Tensor, slope: Tensor | None, inside: Tensor) -> Tensor:
        """Of the loss in the logits of some tokens before softcap and scale, in place.

        Args:
            inside: indices of the targets among them: which hidden state, and which of the tokens.
        """
        share = logits.sub_(self.log_sum_N[:, None]).exp_()
        if self.smoothing:
            share.sub_(self.smoothing / self.head.weight.shape[0])
        share[inside[0], inside[1]] -= 1.0 - self.smoothing
        return (share if slope is None else share.mul_(slope)).mul_(self.grad_N1 * self.head.scale)


def _head_gradient(hidden_ND: Tensor, score: _Score) -> tuple[Tensor, Tensor | None]:
    """Gradients of the head's weight [V, D] and bias [V]."""
    head, targets_N = score.head, score.targets_N
    grad_weight = torch.empty_like(head.weight)
    grad_bias = None if head.bias is None else torch.empty_like(head.bias)
    for logits, slope, _, start in tiles(hidden_ND, head):
        inside = ((targets_N >= start) & (targets_N < start + TILE_TOKENS)).nonzero().squeeze(1)
        share = score.gradient(logits, slope, torch.stack([inside, targets_N[inside] - start]))
        grad_weight[start : start + TILE_TOKENS] = share.to(hidden_ND.dtype).t() @ hidden_ND
        if grad_bias is not None:
            grad_bias[start : start + TILE_TOKENS] = share.sum(0)
    return grad_weight, grad_bias


def _own_gradient(hidden_ND: Tensor, score: _Score) -> Tensor:
    """Of the rows that stand instead of the head's, [K, D]: their logits are computed once more, and no others."""
    own = score.head.own
    assert own is not None
    logits, slope = of_rows(hidden_ND, own.values.to(hidden_ND.dtype), score.head, bias=score.head.bias_of(own.ids))
    share = score.gradient(logits, slope, own.of(score.targets_N).nonzero().t())
    return (share.to(hidden_ND.dtype).t() @ hidden_ND).to(own.values.dtype)
