"""A batch between two of its forward passes: rows leave it when they have ended, and others can join it.

Letters: B rows, T columns, H key heads, D head width, W tokens of a sliding window.

Rows are padded on the left and end in the same column, so two batches stand side by side once the shorter one is padded further. Distances
between the tokens of a row stay what they are, also for layers that keep the last W - 1 columns only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache, DynamicLayer
from transformers.cache_utils import DynamicSlidingWindowLayer

from fine_tune_pipeline.programs.written_rows import Manner, Row

if TYPE_CHECKING:
    from fine_tune_pipeline.programs.decoding import Prefix


@dataclass(frozen=True)
class Newcomers:
    """Prompts that join a batch, each with its manner, and what they begin with, if it is read already."""

    prompts: Sequence[list[int]]
    manners: Sequence[Manner]
    prefix: "Prefix | None" = None


Join = Callable[[int], Newcomers | None]
"""(rows that are being written) -> who joins them now; asked between any two forward passes, and once more when no row is left."""


@dataclass
class UnderWay:
    """Open rows, their mask [B, T], the cache of all tokens but the last, and the last tokens [B]."""

    rows: list[Row]
    mask: Tensor
    cache: DynamicCache
    chosen: Tensor

    def leave(self) -> None:
        """Let go of rows that want no further token."""
        keep = [index for index, row in enumerate(self.rows) if row.open]
        if len(keep) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in keep]
        kept = torch.tensor(keep, dtype=torch.long, device=self.mask.device)
        self.mask, self.chosen = self.mask[kept], self.chosen[kept]
        if keep:
            self.cache.reorder_cache(kept)  # pyright: ignore[reportArgumentType]


def together(one: UnderWay, other: UnderWay) -> UnderWay:
    """Both batches as one, of which the first may be used up."""
    if not one.rows or not other.rows:
        return one if one.rows else other
    # Columns before the longest row's first token hold nothing any more, once the rows that needed them have left.
    width = int(max(one.mask.sum(dim=1).max(), other.mask.sum(dim=1).max()))
    mask = torch.cat([_fitted(batch.mask[None, :, :, None], width)[0, :, :, 0] for batch in (one, other)])
    for layer, added in zip(one.cache.layers, other.cache.layers, strict=True):
        assert isinstance(layer, DynamicLayer)
        assert isinstance(added, DynamicLayer)
        columns = width
        if isinstance(layer, DynamicSlidingWindowLayer):
            columns = min(width, layer.sliding_window - 1)
            layer.cumulative_length = width
        layer.keys = torch.cat([_fitted(layer.keys, columns), _fitted(added.keys, columns)])
        layer.values = torch.cat([_fitted(layer.values, columns), _fitted(added.values, columns)])
    return UnderWay([*one.rows, *other.rows], mask, one.cache, torch.cat([one.chosen, other.chosen]))


def _fitted(states: Tensor | None, columns: int) -> Tensor:
    """The last columns of [B, H, columns, D], with zeros before where there are fewer."""
    assert states is not None
    missing = columns - states.shape[2]
    return torch.nn.functional.pad(states, (0, 0, missing, 0)) if missing > 0 else states[:, :, -columns:]
