"""Where the tokens of some rows go in a mixture of experts, and which experts' adapters have moved."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.head import base_of
from fine_tune_pipeline.programs.requests import LayerLoad, Technique
from fine_tune_pipeline.programs.training.adapters import evaluate
from fine_tune_pipeline.programs.training.batches import ROWS, Collate, Row, as_records
from fine_tune_pipeline.programs.training.recipe import on_device
from fine_tune_pipeline.programs.training.targets import EXPERTS, expert_adapters, layer_of

Shares = dict[int, tuple[float, ...]]
"""Layer -> share of the visits that each of its experts gets."""


class NoVisits(ValueError):
    """The experts are called in a way that says nothing of which token goes where."""


def expert_shares(
    model: PreTrainedModel | PeftModel,
    rows: Sequence[Row],
    *,
    collate: Collate,
    micro_batch: int,
    beat: Callable[[], None] = lambda: None,
) -> Shares:
    """Of the real tokens of these rows; empty for a model without fused experts.

    Args:
        beat: called after every pass.

    Raises:
        NoVisits: names the layer.
    """
    counts = {layer: torch.zeros(count, dtype=torch.long) for layer, (_, count) in _experts(model).items()}
    if not counts:
        return {}
    for first in range(0, len(rows), micro_batch):
        batch = collate(as_records(rows[first : first + micro_batch]))
        for layer, visits in _visits(model, batch).items():
            counts[layer] += torch.bincount(visits, minlength=len(counts[layer]))
        beat()
    return {layer: tuple((count / count.sum()).tolist()) for layer, count in counts.items()}


def loads(model: PreTrainedModel | PeftModel, technique: Technique, *, before: Shares, after: Shares) -> tuple[LayerLoad, ...]:
    """Layer by layer, without shares where they could not be measured; an expert is `still` if it should have learned and one of its
    adapters is nothing yet."""
    adapted = _still(model, technique)
    return tuple(
        LayerLoad(layer=layer, before=before.get(layer, ()), after=after.get(layer, ()), still=adapted.get(layer, ()))
        for layer in sorted({*after, *adapted})
    )


def _still(model: nn.Module, technique: Technique) -> dict[int, tuple[int, ...]]:
    found: dict[int, set[int]] = {}
    for layer, wrapper in expert_adapters(model):
        chosen = range(wrapper.num_experts) if technique.experts is None else technique.experts
        for half in wrapper.lora_B.values():
            moved = half.weight.detach().view(half.weight.shape[0], -1, wrapper.num_experts).abs().sum((0, 1)) > 0
            found.setdefault(layer, set()).update(expert for expert in chosen if not moved[expert])
    return {layer: tuple(sorted(experts)) for layer, experts in found.items()}


@torch.no_grad()
def _visits(model: PreTrainedModel | PeftModel, batch: dict[str, Any]) -> dict[int, Tensor]:
    """Layer -> the numbers of the experts that the real tokens of the batch are sent to."""
    evaluate(model)
    inputs = {name: value for name, value in on_device(batch, model.device).items() if name not in ("labels", ROWS)}
    with _recorded(model) as seen:
        base_of(model).base_model(**inputs, use_cache=False)
    model.train()
    # Flat batches have neither padding nor a mask.
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool().flatten()
    return {layer: chosen.reshape(inputs["input_ids"].numel(), -1)[real].flatten().cpu() for layer, chosen in seen.items()}


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[int, Tensor]]:
    seen: dict[int, Tensor] = {}
    hooks = [module.register_forward_pre_hook(_note(seen, layer), with_kwargs=True) for layer, (module, _) in _experts(model).items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _note(seen: dict[int, Tensor], layer: int) -> Any:
    def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        whole = [
            value for value in (*arguments, *named.values()) if isinstance(value, Tensor) and value.dtype in (torch.int32, torch.int64)
        ]
        if len(whole) != 1:
            raise NoVisits(f"layer {layer}: {type(module).__name__} is given {len(whole)} tensors of whole numbers, want one: the experts")
        seen[layer] = whole[0]

    return hook


def _experts(model: nn.Module) -> dict[int, tuple[nn.Module, int]]:
    """Layer -> the module of its fused experts, adapters around it included, and how many there are."""
    found: dict[int, tuple[nn.Module, int]] = {}
    for name, module in model.named_modules():
        layer = layer_of(name)
        if name.rsplit(".", 1)[-1] != EXPERTS or layer is None:
            continue
        stacked = [parameter.shape[0] for inside, parameter in module.named_parameters() if parameter.ndim == 3 and "lora_" not in inside]
        if stacked:
            found[layer] = (module, stacked[0])
    return found
