"""Rows laid end to end instead of padded: every matrix product and norm sees real tokens only.

Letters: N tokens of all rows together, B rows, T tokens of a row, H heads, D width of a head, W tokens of a sliding window.

Of 16 random rows of customer messages, padding would be 39 %. Attention alone must keep the rows apart: on CUDA torch's variable-length
kernel does; elsewhere rows of the same length are views of the flat tensors, so that nothing is padded, and copied only once at the end.
`rows_attention` is registered under the name ROWS_ATTENTION through the public interface of transformers.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

ROWS_ATTENTION = "flat_rows"

_FLAT_LAYERS = {"full_attention", "sliding_attention"}

_FOREIGN_OPTIONS = ("softcap", "s_aux", "position_bias")
"""What some architectures ask of their attention and this one does not do."""


class UnknownAttention(ValueError):
    """The architecture asks for something that `rows_attention` does not do."""


def use_rows_attention(model: PreTrainedModel) -> bool:
    """Switch the model to flat rows if its architecture allows; False if it keeps its own attention and wants padded batches."""
    if not _allows_flat_rows(model):
        return False
    AttentionInterface.register(ROWS_ATTENTION, rows_attention)
    model.set_attn_implementation(ROWS_ATTENTION)
    return True


def _allows_flat_rows(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or _FLAT_LAYERS)
    return bool(
        model._supports_attention_backend
        # A recurrent layer would carry its state from one row into the next.
        and not getattr(model, "_is_stateful", False)
        and layers <= _FLAT_LAYERS
        and not getattr(config, "attn_logit_softcapping", None)
        and not getattr(config, "use_bidirectional_attention", False)
    )


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **options: object,
) -> tuple[Tensor, None]:
    """Causal self-attention within each row.

    Args:
        query: [1, H, N, D]; `key` and `value` may have fewer heads.
        attention_mask: not used: the rows' borders say all there is to know.
        sliding_window: tokens that a token sees, itself included.
        cu_seq_lens_q: [B + 1], where rows begin, and N.
        max_length_q: tokens of the longest row.

    Returns:
        [1, N, H, D], and no weights.

    Raises:
        UnknownAttention: `options` ask for something else.
    """
    if foreign := [name for name in _FOREIGN_OPTIONS if options.get(name) is not None]:
        raise UnknownAttention(f"{type(module).__name__} asks its attention for {', '.join(foreign)}, which flat rows do not offer")
    if dropout == 0.0 and _kernel_varies(query):
        return _varying(
            query, key, value, borders=cu_seq_lens_q, longest=max_length_q, scaling=scaling, sliding_window=sliding_window
        ), None
    return _row_by_row(query, key, value, borders=cu_seq_lens_q, dropout=dropout, scaling=scaling, window=sliding_window), None


# Compiled layers leave it out: every other mix of lengths would be compiled anew.
@torch.compiler.disable
def _row_by_row(
    query: Tensor, key: Tensor, value: Tensor, *, borders: Tensor, dropout: float, scaling: float | None, window: int | None
) -> Tensor:
    """Rows of one length together: [1, N, H, D]."""
    runs = [(length, len(list(rows))) for length, rows in groupby(borders.diff().tolist())]
    sizes = [length * rows for length, rows in runs]
    answers = [
        _alike(_Block(*part), length=length, dropout=dropout, scaling=scaling, window=window)
        for (length, _), *part in zip(runs, query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    ]
    return torch.cat(answers, dim=1)


def _kernel_varies(query: Tensor) -> bool:
    """Whether torch's variable-length kernel (FlashAttention 2) takes this; its limits are those of `scaled_dot_product_attention`."""
    width = query.shape[-1]
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16) or width % 8:
        return False
    capability = torch.cuda.get_device_capability(query.device)
    # Backward passes of wide heads need the shared memory of data centre cards.
    widest = 256 if capability in ((8, 0), (9, 0), (10, 0)) else 192
    return capability >= (8, 0) and width <= widest


def _varying(
    query: Tensor, key: Tensor, value: Tensor, *, borders: Tensor, longest: int, scaling: float | None, sliding_window: int | None
) -> Tensor:
    """All rows in one kernel: [1, N, H, D]."""
    flat = _Block(*(part[0].transpose(0, 1) for part in (query, key, value)))
    # The kernel counts the tokens to the left of a token; -1 is all of them.
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    grouped = query.shape[1] != key.shape[1]
    answer = varlen_attn(
        flat.query,
        flat.key,
        flat.value,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=window,
        enable_gqa=grouped,
    )
    assert isinstance(answer, Tensor)
    return answer[None]


class _Block(NamedTuple):
    """Queries, the keys and values that they may look at, and which sees which; None is causal."""

    query: Tensor
    key: Tensor
    value: Tensor
    seen: Tensor | None = None


def _alike(block: _Block, *, length: int, dropout: float, scaling: float | None, window: int | None) -> Tensor:
    """Rows of one length, laid end to end: [1, H, B * T, D] to [1, B * T, H, D]."""
    query, key, value = (part[0].unflatten(1, (-1, length)).transpose(0, 1) for part in (block.query, block.key, block.value))
    answers = [
        scaled_dot_product_attention(
            part.query,
            part.key,
            part.value,
            attn_mask=part.seen,
            dropout_p=dropout,
            is_causal=part.seen is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for part in _windows(query, key, value, window=window)
    ]
    answer = answers[0] if len(answers) == 1 else torch.cat(answers, dim=2)
    return answer.transpose(1, 2).flatten(0, 1)[None]


def _windows(query: Tensor, key: Tensor, value: Tensor, *, window: int | None) -> Iterator[_Block]:
    """Queries in blocks of W tokens, each with what one of them sees: a row much longer than the window costs T * W instead of T * T."""
    length = query.shape[2]
    if window is None or length <= window:
        yield _Block(query, key, value)
        return
    band = torch.ones(window, 2 * window - 1, dtype=torch.bool, device=query.device).triu().tril(window - 1)
    for start in range(0, length, window):
        first, stop = max(0, start - window + 1), min(start + window, length)
        seen = None if start == 0 else band[: stop - start, : stop - first]
        yield _Block(query[:, :, start:stop], key[:, :, first:stop], value[:, :, first:stop], seen)
