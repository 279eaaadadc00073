"""How likely a model holds each answer of a batch; like the loss, on labelled positions alone and without logits.

Letters: S sequences, N labelled tokens.
"""
# ruff: noqa: N806 (capitals name the shape of a tensor)

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fine_tune_pipeline.programs.training.batches import Row
from fine_tune_pipeline.programs.training.losses import batch_token_nll


class Answers(NamedTuple):
    """Of each sequence, [S]: the log-probability of its answer in nats, the answer's tokens, and the summed loss of all labelled tokens."""

    logps: Tensor
    tokens: Tensor
    nll: Tensor


def answers_of(model: nn.Module, sequences: Sequence[Row], batch: dict[str, Any]) -> Answers:
    """Differentiable.

    Args:
        sequences: plain rows, those of the batch.
    """
    nll_N = batch_token_nll(model, batch)
    labelled_S = torch.tensor([row.labelled for row in sequences], device=nll_N.device)
    # A prompt that is learned too (loss_on: all) is no part of the answer.
    tokens_S = torch.minimum(labelled_S, torch.tensor([len(row.input_ids) - row.prompt_tokens for row in sequences], device=nll_N.device))
    owner_N = torch.arange(len(sequences), device=nll_N.device).repeat_interleave(labelled_S, output_size=len(nll_N))
    left_N = labelled_S.cumsum(0)[owner_N] - torch.arange(len(nll_N), device=nll_N.device)
    answer_N = torch.where(left_N <= tokens_S[owner_N], nll_N, 0.0)
    nothing_S = nll_N.new_zeros(len(sequences))
    return Answers(-nothing_S.index_add(0, owner_N, answer_N), tokens_S, nothing_S.index_add(0, owner_N, nll_N))
