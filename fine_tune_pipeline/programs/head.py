"""The vocabulary head of a causal language model, and the walk over its vocabulary in tiles.

Letters: N hidden states, D hidden size, V vocabulary.

The head is most of the matrix work of a small model (63 % of Gemma 3 270M), and its logits its largest tensor: 64 rows of float32 logits
are 67 MB. A tile stays in the cache while its maximum, sum or gradient is taken.
"""
# ruff: noqa: N803, N806 (capitals name the shape of a tensor)

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from peft import PeftModel
from peft.utils import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

TILE_TOKENS = 4096
"""Vocabulary entries per tile: 310 rows of float32 logits are 5 MB. Between 1024 and 16384 the time changes by 5 % (AVX-512 CPU)."""


@dataclass(frozen=True)
class OwnRows:
    """Rows that stand instead of the head's: `values` [K, D] of the tokens `ids`, ascending. They may learn while all others rest."""

    values: Tensor
    ids: tuple[int, ...]

    def over(self, rows: Tensor, *, start: int) -> Tensor:
        """The head's rows from token `start` on, with these among them."""
        first, end = bisect_left(self.ids, start), bisect_left(self.ids, start + rows.shape[0])
        if first == end:
            return rows
        places = torch.tensor([id - start for id in self.ids[first:end]], device=rows.device)
        return rows.index_copy(0, places, self.values[first:end].to(rows.dtype))

    def of(self, tokens_N: Tensor) -> Tensor:
        """Which of these rows belongs to which token: [N, K]."""
        return tokens_N[:, None] == torch.tensor(self.ids, device=tokens_N.device)


@dataclass(frozen=True)
class Head:
    """How hidden states become logits: `softcap * tanh(scale * (hidden @ weight.T + bias) / softcap)`; without softcap as they are.

    `weight` is [V, D], `bias` [V] or None; `own` stands instead of some rows of `weight`.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    own: OwnRows | None = None

    def bias_of(self, ids: tuple[int, ...]) -> Tensor | None:
        """Of these tokens."""
        return None if self.bias is None else self.bias[torch.tensor(ids, device=self.bias.device)]

    def rows(self, tokens_N: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Of these tokens: [N, D]."""
        rows_ND = self.weight.index_select(0, tokens_N).to(dtype)
        if self.own is not None:
            token, own = self.own.of(tokens_N).nonzero(as_tuple=True)
            rows_ND[token] = self.own.values[own].to(dtype)
        return rows_ND


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
    plain = linear.token_adapter.get_base_layer() if isinstance(linear, TrainableTokensWrapper) else linear
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(plain.weight, getattr(plain, "bias", None), _logit_scale(config), softcap, _own_rows(linear))


def _own_rows(linear: nn.Module) -> OwnRows | None:
    """The rows that an adapter lays over the head's, where one is active. PEFT itself would copy the whole head for them, in every pass."""
    if not isinstance(linear, TrainableTokensWrapper):
        return None
    adapter = linear.token_adapter
    if adapter.disable_adapters or adapter.merged or not adapter.active_adapters:
        return None
    [name] = adapter.active_adapters
    values, ids = adapter.trainable_tokens_delta[name], adapter.token_indices[name]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return OwnRows(values if order == [*range(len(ids))] else values[order], tuple(ids[place] for place in order))


def _logit_scale(config: PretrainedConfig) -> float:
    """The factor that some architectures put on their logits, each under a name of its own (Cohere, Falcon-H1, Granite)."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if (scale := getattr(config, name, None)) is not None:
            return float(scale)
    divisor = getattr(config, "logits_scaling", None)
    return 1.0 if divisor is None else 1.0 / float(divisor)


class Tile(NamedTuple):
    """Part of the vocabulary: `logits` [N, tile] in float32, valid until the next tile; `slope` of the softcap there, None without;
    the head's `rows` [tile, D]; `start`, the id of its first token."""

    logits: Tensor
    slope: Tensor | None
    rows: Tensor
    start: int


def tiles(hidden_ND: Tensor, head: Head) -> Iterator[Tile]:
    """The logits, tile by tile, computed in the hidden states' number format."""
    # One buffer for all tiles: fresh memory for each costs page faults, a third of the time of the walk.
    room = hidden_ND.new_empty(hidden_ND.shape[0] * min(TILE_TOKENS, head.weight.shape[0]))
    for start in range(0, head.weight.shape[0], TILE_TOKENS):
        rows = head.weight[start : start + TILE_TOKENS].to(hidden_ND.dtype)
        if head.own is not None:
            rows = head.own.over(rows, start=start)
        shape = (hidden_ND.shape[0], rows.shape[0])
        bias = None if head.bias is None else head.bias[start : start + TILE_TOKENS]
        yield Tile(*of_rows(hidden_ND, rows, head, bias=bias, out=room[: shape[0] * shape[1]].view(shape)), rows, start)


def of_rows(hidden_ND: Tensor, rows: Tensor, head: Head, *, bias: Tensor | None, out: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Logits in float32 by some of the head's rows, and the slope of the softcap there."""
    logits = torch.mm(hidden_ND, rows.t(), out=out).float()
    if bias is not None:
        logits.add_(bias)
    if head.scale != 1.0:
        logits.mul_(head.scale)
    return capped(logits, head.softcap)


def capped(logits: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Logits after the softcap, in place, and the derivative of the softcap."""
    if softcap is None:
        return logits, None
    bent = logits.div_(softcap).tanh_()
    slope = 1.0 - bent.square()
    return bent.mul_(softcap), slope


def likeliest(hidden_ND: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """The token of the highest logit after each hidden state, the first of equals: ids [N], and their log-probabilities [N] in nats."""
    count = hidden_ND.shape[0]
    best = hidden_ND.new_full((count,), -torch.inf, dtype=torch.float32)
    total = torch.zeros_like(best)
    chosen = torch.zeros(count, dtype=torch.long, device=hidden_ND.device)
    for tile in tiles(hidden_ND, head):
        highest, place = tile.logits.max(dim=1)
        chosen = torch.where(highest > best, tile.start + place, chosen)
        higher = torch.maximum(best, highest)
        total.mul_(torch.exp(best - higher)).add_(tile.logits.sub_(higher[:, None]).exp_().sum(1))
        best = higher
    return chosen, -total.log()
