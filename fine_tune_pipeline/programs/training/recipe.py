"""What a training and its preflight have in common."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.programs.preflight_requests import PreflightRequest
from fine_tune_pipeline.programs.requests import TrainRequest

Recipe = TrainRequest | PreflightRequest
"""Model, format, technique, hyperparameters, placement."""


def computing(recipe: Recipe) -> torch.autocast:
    """Products in bfloat16 on the float32 weights of full tuning, if planned so; a base under adapters has the number format itself.

    transformers leaves this to the forward of the model, which the loss on labelled positions does not go through.
    """
    mixed = recipe.technique.type == "full" and recipe.placement.dtype == "bfloat16"
    return torch.autocast(torch.device(recipe.placement.device).type, dtype=torch.bfloat16, enabled=mixed)


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors of a batch where the model is."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Of a tokenizer of `load_tokenizer`, which always has one."""
    assert isinstance(tokenizer.pad_token_id, int)
    return tokenizer.pad_token_id
