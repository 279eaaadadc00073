"""Rows laid end to end instead of padded: every matrix product and norm sees real tokens only.

Letters: N tokens of all rows together, B rows, T tokens of the longest, H heads, D width of a head.

Of 16 random rows of customer messages, padding would be 39 %. Attention alone must keep the rows apart: `rows_attention` spreads them into
[B, H, T, D], where a causal mask hides the padding at the end of each row by itself, and lays the answer flat again.
It is registered under the name ROWS_ATTENTION through the public interface of transformers.
"""
# ruff: noqa: N803, N806 (capitals name the shape of a tensor)

import torch
from torch import Tensor, nn
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
        max_length_q: T.

    Returns:
        [1, N, H, D], and no weights.

    Raises:
        UnknownAttention: `options` ask for something else.
    """
    if foreign := [name for name in _FOREIGN_OPTIONS if options.get(name) is not None]:
        raise UnknownAttention(f"{type(module).__name__} asks its attention for {', '.join(foreign)}, which flat rows do not offer")
    places_N = _places(cu_seq_lens_q, max_length_q, tokens=query.shape[2])
    rows = cu_seq_lens_q.numel() - 1
    mask = _window(max_length_q, sliding_window, device=query.device)
    answer = scaled_dot_product_attention(
        _spread(query, places_N, rows=rows, longest=max_length_q),
        _spread(key, places_N, rows=rows, longest=max_length_q),
        _spread(value, places_N, rows=rows, longest=max_length_q),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return answer.transpose(1, 2).flatten(0, 1).index_select(0, places_N)[None], None


def _places(borders: Tensor, longest: int, *, tokens: int) -> Tensor:
    """Where each of N tokens stands in B rows of `longest` tokens laid end to end: [N]."""
    lengths = borders.diff()
    shift = torch.arange(lengths.numel(), device=borders.device) * longest - borders[:-1]
    return torch.arange(tokens, device=borders.device) + shift.repeat_interleave(lengths, output_size=tokens)


def _spread(flat: Tensor, places_N: Tensor, *, rows: int, longest: int) -> Tensor:
    """[1, H, N, D] to [B, H, T, D], zero behind the end of a row."""
    _, heads, _, width = flat.shape
    room = flat.new_zeros(rows * longest, heads, width)
    return room.index_copy(0, places_N, flat[0].transpose(0, 1)).view(rows, longest, heads, width).transpose(1, 2)


def _window(longest: int, sliding_window: int | None, *, device: torch.device) -> Tensor | None:
    """Which tokens see which, [T, T], if a window is shorter than the longest row; None where a causal mask alone will do."""
    if sliding_window is None or longest <= sliding_window:
        return None
    seen = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    return seen & ~seen.tril(-sliding_window)
