"""The likeliest token by a coarse look at the whole vocabulary, and an exact one at the few tokens that could be it.

Letters: N hidden states, D hidden size, V vocabulary.

A CPU with bfloat16 units multiplies by a bfloat16 copy of the head four times as fast as by the float32 head, which is most of the work of
writing an answer with a small model. The copy's products are wrong, but by how much at most is known: with hidden state h, row w and their
copies h', w'

    |h w - h' w'| <= |h - h'| |w| + |h'| |w - w'|        (Cauchy-Schwarz)

plus the rounding of the product. So only tokens within twice that of the highest product can be the likeliest. Of these, and of those
nearly as likely, the float32 products are taken. The token is the one that the float32 head gives; its log-probability differs by what the
rounding of the unlikely tokens' products leaves in their sum, in which errors of either sign cancel.
"""
# ruff: noqa: N803, N806 (capitals name the shape of a tensor)

from typing import NamedTuple

import torch
from torch import Tensor

from fine_tune_pipeline.programs.head import TILE_TOKENS, Head, capped, likeliest
from fine_tune_pipeline.programs.mapped_memory import let_go

ROUNDING = 2.0**-8
"""Of a product, relative to it: bfloat16 has eight significant bits."""

SUMMED = 2.0**-22
"""For each of the D terms of a product, relative to |h| |w|: they are summed in float32, here with a margin of four."""

LIKELY_NATS = 5.0
"""Below the least logit that may be the highest one: so far down logits are computed exactly too, for the sake of the log-probability."""

MOST_CANDIDATES = 4096
"""For each hidden state, on average. With more, looking at all of them exactly is no dearer."""

RESOLVED = 1e-6
"""Of a sum, what is left of it when most is taken away again."""

LEAST_NUMBERS = 2**22
"""In a head for which a copy is worth its memory."""


class _Seen(NamedTuple):
    """Of the walk over the copy: `highest` product of each tile [N, tiles]; of each hidden state the logit of its highest product (`best`)
    and the sum of exp(logit - that) over the vocabulary (`total`), both [N]."""

    highest: Tensor
    best: Tensor
    total: Tensor


class _Candidates(NamedTuple):
    """Pairs of hidden state and token that have to be looked at exactly, and their products by the copy; in the order of the tokens."""

    states: Tensor
    tokens: Tensor
    products: Tensor


class Screen:
    """A bfloat16 copy of a head, half as large as the head, and by how much it may mislead. For one thread at a time."""

    def __init__(self, head: Head) -> None:
        """
        Args:
            head: one that `fits`.
        """
        self._head = head
        self._state = _state(head)
        self._copy_VD = head.weight.detach().to(torch.bfloat16)
        self._longest, self._error = 0.0, 0.0
        for rows, copied in zip(head.weight.detach().split(TILE_TOKENS), self._copy_VD.split(TILE_TOKENS), strict=True):
            self._longest = max(self._longest, float(rows.norm(dim=1).max()))
            self._error = max(self._error, float((rows - copied.float()).norm(dim=1).max()))
        self._room = self._copy_VD.new_empty(0)
        # From now on few of its rows are read. Where it is mapped from the file, that makes room for the copy and more.
        let_go(head.weight)

    @staticmethod
    def fits(head: Head) -> bool:
        """Whether the highest product is the highest logit, and the head large enough to matter."""
        plain = head.bias is None and head.own is None and head.scale > 0
        return plain and head.weight.dtype == torch.float32 and head.weight.numel() >= LEAST_NUMBERS

    def of(self, head: Head) -> bool:
        """Whether the copy is still that of `head`, which may have learned since."""
        return self._state == _state(head)

    def likeliest(self, hidden_ND: Tensor) -> tuple[Tensor, Tensor]:
        """The token of the highest logit after each hidden state (float32), the first of equals: ids [N], and their log-probabilities [N]
        in nats."""
        hidden_ND = hidden_ND.contiguous()
        seen = self._look(hidden_ND)
        candidates = self._candidates(seen, least_N=self._least(hidden_ND, seen.highest.amax(dim=1)))
        if candidates is None:
            return likeliest(hidden_ND, self._head)
        exact = self._logits((hidden_ND[candidates.states] * self._head.weight[candidates.tokens]).sum(dim=1))
        count, words = hidden_ND.shape[0], self._head.weight.shape[0]
        best_N = exact.new_full((count,), -torch.inf).scatter_reduce(0, candidates.states, exact, "amax")
        named = torch.where(exact == best_N[candidates.states], candidates.tokens, words)
        chosen_N = named.new_full((count,), words).scatter_reduce(0, candidates.states, named, "amin")
        # The candidates' own shares of the sum are replaced by exact ones; what float32 cannot tell from nothing is nothing.
        coarse = torch.exp(self._logits(candidates.products) - seen.best[candidates.states])
        rest_N = seen.total.index_add(0, candidates.states, coarse, alpha=-1)
        rest_N = torch.where(rest_N > RESOLVED * seen.total, rest_N * torch.exp(seen.best - best_N), 0.0)
        return chosen_N, -rest_N.index_add(0, candidates.states, torch.exp(exact - best_N[candidates.states])).log()

    def _logits(self, products: Tensor) -> Tensor:
        if self._head.scale == 1.0 and self._head.softcap is None:
            return products
        return capped(products * self._head.scale, self._head.softcap)[0]

    def _look(self, hidden_ND: Tensor) -> _Seen:
        """All products by the copy, kept in `_room` tile by tile."""
        coarse_ND = hidden_ND.to(torch.bfloat16)
        count, words = hidden_ND.shape[0], self._copy_VD.shape[0]
        if self._room.numel() < count * words:
            # Kept for the next step: fresh memory costs page faults.
            self._room = self._copy_VD.new_empty(count * words)
        highest: list[Tensor] = []
        best_N = hidden_ND.new_full((count,), -torch.inf)
        total_N = torch.zeros_like(best_N)
        for start in range(0, words, TILE_TOKENS):
            tile = torch.mm(coarse_ND, self._copy_VD[start : start + TILE_TOKENS].t(), out=self._tile(start, count)).float()
            highest.append(tile.amax(dim=1))
            logits = self._logits(tile)
            higher_N = torch.maximum(best_N, logits.amax(dim=1))
            total_N.mul_(torch.exp(best_N - higher_N)).add_(logits.sub_(higher_N[:, None]).exp_().sum(1))
            best_N = higher_N
        return _Seen(torch.stack(highest, dim=1), best_N, total_N)

    def _tile(self, start: int, count: int) -> Tensor:
        """The products of the tile that begins with token `start`: [N, tile]."""
        width = min(TILE_TOKENS, self._copy_VD.shape[0] - start)
        return self._room[start * count : (start + width) * count].view(count, width)

    def _least(self, hidden_ND: Tensor, highest_N: Tensor) -> Tensor:
        """The product by the copy from which on a token is looked at exactly: none below it is the likeliest. [N]"""
        coarse_ND = hidden_ND.to(torch.bfloat16).float()
        lost_N, length_N = (hidden_ND - coarse_ND).norm(dim=1), hidden_ND.norm(dim=1)
        wrong_N = lost_N * self._longest + coarse_ND.norm(dim=1) * self._error
        wrong_N += SUMMED * hidden_ND.shape[1] * length_N * self._longest
        # A product p of the copy stands for at most p + rounding |p| + wrong; the highest for at least p - rounding |p| - wrong.
        least_N = self._below(highest_N - ROUNDING * highest_N.abs() - 2 * wrong_N)
        return torch.where(least_N >= 0, least_N / (1 + ROUNDING), least_N / (1 - ROUNDING))

    def _below(self, products_N: Tensor) -> Tensor:
        """The products whose logits are `LIKELY_NATS` lower: [N]."""
        softcap = self._head.softcap
        if softcap is None:
            return products_N - LIKELY_NATS / self._head.scale
        logits_N = self._logits(products_N) - LIKELY_NATS
        # Below the softcap there are no logits, so that all products count.
        return torch.atanh((logits_N / softcap).clamp(min=-1)) * softcap / self._head.scale

    def _candidates(self, seen: _Seen, *, least_N: Tensor) -> _Candidates | None:
        """None when they are so many that the exact way is as fast, or when something is not a number."""
        count = least_N.shape[0]
        reached_NT = seen.highest >= least_N[:, None]
        if not bool(reached_NT.any(dim=1).all()):
            return None
        states, tokens, products = [], [], []
        left = MOST_CANDIDATES * count
        for number in reached_NT.any(dim=0).nonzero()[:, 0].tolist():
            start = number * TILE_TOKENS
            rows = reached_NT[:, number].nonzero()[:, 0]
            tile = self._tile(start, count)[rows].float()
            row, place = (tile >= least_N[rows, None]).nonzero(as_tuple=True)
            left -= len(row)
            if left < 0:
                return None
            states.append(rows[row])
            tokens.append(start + place)
            products.append(tile[row, place])
        return _Candidates(torch.cat(states), torch.cat(tokens), torch.cat(products))


def _state(head: Head) -> tuple[int, int | None]:
    """Of the weights: where they lie, and how often they were written, which tensors made for inference do not count."""
    return head.weight.data_ptr(), None if head.weight.is_inference() else head.weight._version
