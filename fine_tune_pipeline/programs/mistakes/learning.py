"""Mistakes between technique and model, seen on it after the tried steps: what should learn has moved, and nothing overflowed."""

import math
from collections.abc import Sequence

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from torch import nn
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.head import base_of
from fine_tune_pipeline.programs.machine import memory
from fine_tune_pipeline.programs.mistakes.checklist import Verdict, fine, not_applicable, wrong
from fine_tune_pipeline.programs.models import load_model, weight_files
from fine_tune_pipeline.programs.requests import Placement, Technique
from fine_tune_pipeline.programs.training.adapters import evaluate, trainable_parameters
from fine_tune_pipeline.programs.training.batches import ROWS, Collate, Row, as_records, shown_ids
from fine_tune_pipeline.programs.training.pissa import moved_since_start
from fine_tune_pipeline.programs.training.recipe import Recipe, computing, on_device
from fine_tune_pipeline.programs.training.targets import layer_of


def target_modules_match_nothing(model: PreTrainedModel | PeftModel, *, technique: Technique) -> Verdict:
    """Whether every target has an adapter, and adapters have moved in the tried steps."""
    if technique.type == "full":
        return not_applicable("full fine-tuning names no target modules")
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    names = [] if isinstance(technique.target_modules, str) else technique.target_modules
    missing = [target for target in names if not any(name.endswith(f".{target}") for name in adapted)]
    moved = len(moved_since_start(model)) if technique.use_pissa else sum(_moved(module) for module in adapted.values())
    seen = f"{len(adapted)} modules have adapters with {trainable_parameters(model):,} numbers, {moved} of them moved in the tried steps"
    if missing or not moved:
        return wrong(
            f"{seen}; without an adapter: {', '.join(missing) or 'none'}",
            "name modules that the model has in technique.target_modules, or write all-linear",
        )
    return fine(seen)


def frozen_experts(model: PreTrainedModel | PeftModel, *, technique: Technique) -> Verdict:
    """Whether the experts learn: transformers keeps them as one parameter each, which adapters of modules pass by in silence."""
    chosen = technique.layers
    experts = {name: learns for name, learns in expert_weights(model).items() if chosen is None or layer_of(name) in chosen}
    if not experts:
        return not_applicable("the model has no experts where anything learns")
    frozen = [name for name, learns in experts.items() if not learns]
    seen = f"{len(experts) - len(frozen)} of {len(experts)} weights of experts learn"
    if not frozen:
        return fine(seen)
    if technique.type != "full" and not technique.expert_rank:
        return not_applicable(f"{seen}: technique.experts leaves them as they are")
    return wrong(
        f"{seen}; as they were: {shown_ids(frozen)}", "take the pinned version of peft (constraints.txt), or leave technique.experts out"
    )


def expert_weights(model: nn.Module) -> dict[str, bool]:
    """Weights of experts by name, and whether they learn: themselves, or by an adapter that has moved where one is for all of them."""
    found = {
        _plain(name): parameter.requires_grad
        for name, parameter in model.named_parameters()
        if "experts" in name.split(".") and "lora_" not in name and parameter.ndim > 1
    }
    for name, module in model.named_modules():
        if "experts" not in name.split("."):
            continue
        if isinstance(module, ParamWrapper):
            found[_plain(f"{name}.{module.parameter_name}")] = _moved(module)
        elif isinstance(module, LoraLayer):
            found[_plain(f"{name}.weight")] = True
    return found


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "base_layer").removeprefix("base_model.model.")


def _moved(module: LoraLayer) -> bool:
    # The second matrix begins at zero.
    return any(bool(matrix.weight.any()) for matrix in module.lora_B.values())


def dtype_overflow(model: PreTrainedModel | PeftModel, rows: Sequence[Row], *, collate: Collate, recipe: Recipe) -> Verdict:
    """Whether the activations of some rows are numbers after every layer, in the planned number format."""
    dtype = recipe.placement.dtype
    largest = _largest_activation(model, rows, collate=collate, recipe=recipe)
    seen = f"the largest activation of {len(rows)} rows is {largest:.3g} in {dtype}"
    if math.isfinite(largest):
        return fine(f"{seen}, of {torch.finfo(getattr(torch, dtype)).max:.3g}")
    return wrong(seen, "write training.dtype: float32")


def overflowed(error: ArithmeticError, rows: Sequence[Row], *, collate: Collate, recipe: Recipe) -> Verdict:
    """What a loss that is no number comes from: the same rows go through the untrained model in float32, on the CPU."""
    files = sum(path.stat().st_size for path in weight_files(recipe.model))
    if 2 * files > memory("cpu").available:
        return wrong(str(error), "write training.dtype: float32; float32 was not tried here: the memory does not hold it beside")
    exact = recipe.model_copy(update={"placement": Placement(device="cpu", dtype="float32")})
    base = load_model(recipe.model, dtype="float32")
    largest = _largest_activation(base, rows, collate=collate, recipe=exact)
    if not math.isfinite(largest):
        return wrong(f"{error}; float32 overflows too", "the weights are broken: fetch the model again, or take another one")
    if recipe.placement.dtype == "float32":
        return wrong(f"{error}; untrained, the largest activation is {largest:.3g}", "lower training.learning_rate, or look at these rows")
    return wrong(f"{error}; in float32 the largest activation is {largest:.3g}", "write training.dtype: float32")


@torch.no_grad()
def _largest_activation(model: PreTrainedModel | PeftModel, rows: Sequence[Row], *, collate: Collate, recipe: Recipe) -> float:
    """inf or nan if any of the hidden states is."""
    evaluate(model)
    batch = on_device(collate(as_records(rows)), model.device)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", ROWS)}
    with computing(recipe):
        states = base_of(model).base_model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
    return float(torch.stack([state.float().abs().max() for state in states]).max())
