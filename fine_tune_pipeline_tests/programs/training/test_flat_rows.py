from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline.programs.training.batches import Collate, Row, as_records
from fine_tune_pipeline.programs.training.flat_rows import UnknownAttention, _kernel_varies, rows_attention, use_rows_attention
from fine_tune_pipeline_tests.tiny import SLIDING_WINDOW, Architecture, tiny_model

LENGTHS = (9, 2 * SLIDING_WINDOW + 3, 1, SLIDING_WINDOW)
"""One row longer than the sliding window, one just as long, one of a single token."""


def loaded(folder: Path) -> PreTrainedModel:
    model = load_model(folder)
    assert isinstance(model, PreTrainedModel)
    return model


def some_rows(*, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, 300, (length,), generator=draw).tolist() for length in lengths]
    return as_records([Row(str(place), row, row) for place, row in enumerate(ids)])


@torch.no_grad()
def hidden_states(model: PreTrainedModel, rows: list[dict[str, Any]], *, flat: bool) -> torch.Tensor:
    """Of the real tokens, row after row: [tokens, width]."""
    batch = Collate(pad_id=0, flat=flat)(rows)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "row")}
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
    return hidden[0] if flat else hidden[batch["attention_mask"].bool()]


@pytest.mark.parametrize("architecture", ["gemma3", "llama"])
def test_flat_rows_give_the_hidden_states_of_padded_rows(architecture: Architecture, tmp_path: Path):
    folder = tiny_model(tmp_path, architecture=architecture)
    flat = loaded(folder)
    assert use_rows_attention(flat)
    padded = hidden_states(loaded(folder), some_rows(), flat=False)
    torch.testing.assert_close(hidden_states(flat, some_rows(), flat=True), padded, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_see_its_neighbours(tmp_path: Path):
    model = loaded(tiny_model(tmp_path))
    use_rows_attention(model)
    rows = some_rows()
    before = hidden_states(model, rows, flat=True)
    others = some_rows(seed=1)
    after = hidden_states(model, [others[0], rows[1], others[2], others[3]], flat=True)
    its_own = slice(LENGTHS[0], LENGTHS[0] + LENGTHS[1])
    torch.testing.assert_close(after[its_own], before[its_own], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after[: LENGTHS[0]], before[: LENGTHS[0]])


def test_an_architecture_with_soft_capped_attention_keeps_its_own():
    config = Gemma2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config)
    assert not use_rows_attention(model)
    assert model.config._attn_implementation == "eager"


def test_an_unknown_wish_of_an_attention_layer_is_refused():
    tensor = torch.zeros(1, 1, 3, 4)
    with pytest.raises(UnknownAttention, match="Identity asks its attention for softcap"):
        rows_attention(nn.Identity(), tensor, tensor, tensor, None, cu_seq_lens_q=torch.tensor([0, 3]), max_length_q=3, softcap=30.0)


def attention_of(lengths: tuple[int, ...], *, window: int | None) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Random queries of four heads, keys and values of two; and what `rows_attention` makes of them, [N, H, D]."""
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, heads, sum(lengths), 8, generator=draw) for heads in (4, 2, 2)]
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    longest = max(lengths)
    answer, _ = rows_attention(nn.Identity(), *parts, None, scaling=0.3, sliding_window=window, cu_seq_lens_q=borders, max_length_q=longest)
    return parts, answer[0]


def by_the_book(parts: list[torch.Tensor], lengths: tuple[int, ...], *, window: int | None) -> torch.Tensor:
    """Softmax over all tokens of all rows, those that must not be seen at minus infinity."""
    query, key, value = (part[0].double() for part in parts)
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    place = torch.arange(sum(lengths))
    back = place[:, None] - place[None, :]
    seen = (row[:, None] == row[None, :]) & (back >= 0) & (back < (window or sum(lengths)))
    scores = 0.3 * query @ key.repeat_interleave(2, 0).transpose(1, 2)
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value.repeat_interleave(2, 0)).transpose(0, 1)


@pytest.mark.parametrize("window", [None, 1, 5, 7, 40])
@pytest.mark.parametrize("lengths", [(5, 5, 5), (21, 14, 14, 3, 1), (1,), (7, 8, 6, 15)])
def test_each_token_sees_its_row_as_far_back_as_the_window(lengths: tuple[int, ...], window: int | None):
    parts, answer = attention_of(lengths, window=window)
    torch.testing.assert_close(answer.double(), by_the_book(parts, lengths, window=window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
def test_the_kernel_of_an_accelerator_is_asked_for_the_same(window: int | None, monkeypatch: pytest.MonkeyPatch):
    """`varlen_attn` runs on CUDA only: here a stand-in by torch's documentation answers in its place."""
    lengths = (9, 4, 4)

    def by_documentation(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):  # type: ignore[no-untyped-def]
        assert cu_seq_q.tolist() == cu_seq_k.tolist() == [0, 9, 13, 17]
        assert (max_q, max_k, scale, enable_gqa) == (9, 9, 0.3, True)
        left, right = window_size
        assert right == 0
        # (W, 0) is causal with W tokens to the left, (-1, 0) causal with all.
        parts = [part.transpose(0, 1)[None] for part in (query, key, value)]
        return by_the_book(parts, lengths, window=None if left == -1 else left + 1).float()

    monkeypatch.setattr("fine_tune_pipeline.programs.training.flat_rows._kernel_varies", lambda query: True)
    monkeypatch.setattr("fine_tune_pipeline.programs.training.flat_rows.varlen_attn", by_documentation)
    parts, answer = attention_of(lengths, window=window)
    torch.testing.assert_close(answer.double(), by_the_book(parts, lengths, window=window), rtol=1e-5, atol=1e-5)


def test_the_kernel_of_an_accelerator_is_not_asked_for_what_lies_on_a_cpu():
    assert not _kernel_varies(torch.zeros(1, 2, 3, 64, dtype=torch.bfloat16))
