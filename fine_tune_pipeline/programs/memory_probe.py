"""What a layer of the real model code keeps for the backward pass, found without memory: the reference for the closed formula.

The model is built on torch's meta device, where tensors have shapes and no content, with two and with three layers; the difference is one
layer. Attention is a stand-in that keeps what `flat_rows` keeps around a kernel without scores: on this device the real one would fall
back to a kernel that keeps them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig

from fine_tune_pipeline.programs.head import base_of
from fine_tune_pipeline.programs.requests import Precision, Technique
from fine_tune_pipeline.programs.training.adapters import with_technique

STAND_IN = "memory_probe"

TOKENS = 61
"""A prime number that no width of a model is a multiple of: what has such a size is of tokens."""


def layer_bytes_per_token(config: PretrainedConfig, technique: Technique, *, dtype: Precision, tokens: int = TOKENS) -> float:
    """Bytes that one layer keeps of each token, in a forward pass of so many.

    Args:
        config: of the model; its number of layers does not matter, so layers of the technique may be counted from the end.
        tokens: no divisor of any width of the model.
        dtype: of the frozen weights; all weights are float32 where all learn.
    """
    three, two = (_kept(config, technique, layers=layers, dtype=dtype, tokens=tokens) for layers in (3, 2))
    return (three - two) / tokens


def _kept(config: PretrainedConfig, technique: Technique, *, layers: int, dtype: Precision, tokens: int) -> int:
    model = _built(config, technique, layers=layers, dtype=dtype)
    known = {_identity(parameter) for parameter in model.parameters()}
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _identity(tensor) not in known:
            # Held, so that no later storage gets the same identity.
            seen[_identity(tensor)] = tensor
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        base_of(model).base_model(input_ids=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values() if not _of_weights(tensor, tokens))


def _built(config: PretrainedConfig, technique: Technique, *, layers: int, dtype: Precision) -> nn.Module:
    AttentionInterface.register(STAND_IN, _attention)
    own = type(config).from_dict({**config.to_dict(), "num_hidden_layers": layers, "layer_types": ["full_attention"] * layers})
    number = torch.float32 if technique.type == "full" else getattr(torch, dtype)
    counted = technique.layers and tuple(layer % layers for layer in technique.layers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(own, dtype=number, attn_implementation=STAND_IN)
        adapted = with_technique(model, technique=technique.model_copy(update={"layers": counted}), seed=0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def _identity(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _of_weights(tensor: Tensor, tokens: int) -> bool:
    """Made of weights only, such as DoRA's products: gone when the layer's forward pass is."""
    return not any(size % tokens == 0 for size in tensor.shape)


class _Keeps(torch.autograd.Function):
    """Queries, keys and values, the output and its normaliser."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(query, key, value, torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32))
        return torch.empty_like(query.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Never asked for: the probe goes forward only."""
        return None, None, None


def _attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: object) -> tuple[Tensor, None]:
    answer = _Keeps.apply(query, key, value)
    assert isinstance(answer, Tensor)
    return answer, None
