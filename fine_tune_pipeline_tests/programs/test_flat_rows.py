from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from fine_tune_pipeline.programs.batches import Collate, Row, as_records
from fine_tune_pipeline.programs.flat_rows import UnknownAttention, rows_attention, use_rows_attention
from fine_tune_pipeline.programs.models import load_model
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
