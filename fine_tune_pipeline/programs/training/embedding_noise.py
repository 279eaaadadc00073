"""NEFTune: noise on the embeddings of what is trained on, so that a model learns what answers say and less how they are worded.

Letters: B rows, T tokens, N tokens of all rows together, L tokens of one row, D hidden size.

Source: Jain et al., NEFTune (2023): uniform noise in [-1, 1] times alpha / sqrt(L * D), where L are the tokens of the row without padding.
The hook of transformers takes the length of the whole micro-batch for L, which is another number once rows are laid end to end.

The noise of a row is drawn from the seed, the step and the row: it is the same in every micro-batch, and after every break.
"""
# ruff: noqa: N806 (capitals name the shape of a tensor)

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fine_tune_pipeline.programs.head import base_of
from fine_tune_pipeline.programs.training.batches import ROWS


class EmbeddingNoise:
    """Adds noise to the embeddings of a model inside `over`, and nowhere else: neither a validation nor an answer sees it.

    `alpha`: 5 to 15 are usual; None: no noise.
    """

    def __init__(self, model: nn.Module, *, alpha: float | None, seed: int) -> None:
        self._alpha = alpha
        self._seed = seed
        self._over: tuple[dict[str, Any], int] | None = None
        if alpha is not None:
            base_of(model).get_input_embeddings().register_forward_hook(self._added)

    @contextmanager
    def over(self, batch: dict[str, Any], *, step: int) -> Iterator[None]:
        """Around the passes of a micro-batch of `step`: the backward one too, which may compute layers again."""
        self._over = (batch, step)
        try:
            yield
        finally:
            self._over = None

    def _added(self, module: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor | None:
        return None if self._over is None else made + self._drawn(*self._over, like=made)

    def _drawn(self, batch: dict[str, Any], step: int, *, like: Tensor) -> Tensor:
        """[B, T, D] with nothing on the padding, or [1, N, D]."""
        rows = [self._of_row(tokens, row=row, step=step, like=like) for tokens, row in zip(lengths_of(batch), batch[ROWS], strict=True)]
        if "attention_mask" not in batch:
            return torch.cat(rows)[None].to(like.dtype)
        noise_BTD = torch.zeros_like(like)
        for place, noise_LD in enumerate(rows):
            noise_BTD[place, : len(noise_LD)] = noise_LD
        return noise_BTD

    def _of_row(self, tokens: int, *, row: int, step: int, like: Tensor) -> Tensor:
        assert self._alpha is not None
        width = like.shape[-1]
        draw = torch.Generator(like.device).manual_seed(_key(self._seed, step, row))
        reach = self._alpha / math.sqrt(tokens * width)
        return torch.empty(tokens, width, device=like.device).uniform_(-reach, reach, generator=draw)


def lengths_of(batch: dict[str, Any]) -> Sequence[int]:
    """Tokens of each row of a micro-batch of `Collate`, without padding."""
    mask = batch.get("attention_mask")
    return (batch["cu_seq_lens_q"].diff() if mask is None else mask.sum(1)).tolist()


def _key(*numbers: int) -> int:
    """A seed that differs as soon as one of the numbers does."""
    digest = hashlib.blake2b(repr(numbers).encode("utf-8"), digest_size=7).digest()
    return int.from_bytes(digest, "big")
