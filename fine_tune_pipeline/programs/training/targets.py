"""Which matrices of a model get adapters; of a mixture of experts, so that its router stays as it is.

PEFT's own `all-linear` adapts the router of a mixture of experts too, and a name such as `gate_proj` means the experts there, even where
a shared expert or a dense layer has a module of that name. So such a model is looked at here: attention by the names of its modules,
everything in its MLPs by the names of its parameters. Of experts that are not chosen, the adapters are zero in both halves: so is then
every gradient, and whatever the optimizer does with it.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from torch import nn

from fine_tune_pipeline.programs.models import TOKEN_ROWS
from fine_tune_pipeline.programs.requests import Technique

EXPERTS = "experts"
"""The module that holds the routed experts, fused into one parameter for each of their matrices; its neighbours route or are shared."""

_RENAMED = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
"""Names of modules that PEFT reads as those of routed experts or of the router."""


class TargetNotFound(ValueError):
    """A module that the technique names is not in the model: it would silently stay as it is."""


class LayerNotFound(TargetNotFound):
    """A layer that the technique names is not in the model, or got no adapter."""


class RankTooLarge(ValueError):
    """An adapter has a larger rank than the matrix beside it."""


class ExpertsNotAdapted(ValueError):
    """The technique wants adapters beside experts or routers, and not every one of their parameters got one."""


class WouldRouteAnew(ValueError):
    """The named targets would train a router, or experts that the technique leaves frozen."""


class NotBesideParameters(ValueError):
    """DoRA, PiSSA or dropout, where PEFT must add the adapter to the weights themselves."""


@dataclass(frozen=True)
class Targets:
    """Names of modules, of parameters, and of parameters of experts and routers, as PEFT is told; `experts` is how many a layer has."""

    modules: str | list[str]
    parameters: list[str]
    routed: list[str]
    experts: int = 0

    def options(self, technique: Technique) -> dict[str, Any]:
        """As arguments of `LoraConfig`. Scaling is the same everywhere, whatever the rank."""
        chosen: dict[str, Any] = {"r": technique.rank, "lora_alpha": technique.alpha, "target_modules": self.modules}
        if self.parameters or self.routed:
            chosen["target_parameters"] = self.parameters + self.routed
        if technique.layers is not None:
            chosen["layers_to_transform"] = list(technique.layers)
        if not self.routed:
            return chosen
        # The experts' rank is the rule and the others' the exception: PEFT warns of patterns that match parameters only.
        rank = technique.expert_rank or min(technique.rank, self.experts)
        share = rank / technique.rank
        alpha = technique.alpha * (math.sqrt(share) if technique.use_rslora else share)
        others = "|".join(re.escape(name) for name in [*self.modules, *(name.split(".", 1)[1] for name in self.parameters)])
        patterns = {"rank_pattern": technique.rank, "alpha_pattern": technique.alpha}
        return chosen | {"r": rank, "lora_alpha": alpha} | {name: {rf".*\.({others})": value} for name, value in patterns.items()}


def targets_of(model: nn.Module, technique: Technique) -> Targets:
    """The matrices that the technique adapts.

    Raises:
        TargetNotFound: a named target module is nowhere in the model.
        LayerNotFound: a layer's number is beyond the model's.
        ExpertsNotAdapted: experts or the router are to learn and the model has none.
        NotBesideParameters: DoRA, PiSSA or dropout on shared experts or dense layers of a mixture of experts.
    """
    _check_layers(model, technique)
    experts = {name: parameter.shape[0] for name, parameter in model.named_parameters() if _is_fused_expert(name, parameter)}
    count = next(iter(experts.values()), 0)
    routed = list(experts) if technique.expert_rank else []
    if technique.router == "train":
        routed += _routers(model, experts=count)
    routed = [name for name in routed if technique.layers is None or layer_of(name) in technique.layers]
    _check_routed(routed, technique, experts=count)
    modules, parameters = _linear(model, technique)
    if technique.layers is None:
        return Targets(modules, parameters, sorted({_in_its_layer(name) for name in routed}), count)
    # PEFT chooses layers of modules only.
    parameters = [f"layers.{layer}.{rest}" for layer in technique.layers for rest in _with_path(model, parameters, layer)]
    return Targets(modules, parameters, sorted(f"layers.{layer_of(name)}.{_in_its_layer(name)}" for name in routed), count)


def check_adapted(model: nn.Module, technique: Technique) -> None:
    """Look at what PEFT has made trainable.

    Raises:
        RankTooLarge: names the matrix, its size and the rank.
        LayerNotFound: one of the chosen layers has no adapter, or another one has.
        WouldRouteAnew: a router learns, or experts that should not.
        ExpertsNotAdapted: experts should learn and one of their parameters has no adapter.
    """
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad and TOKEN_ROWS not in name]
    where = {layer_of(name) for name in learning}
    if technique.layers is not None and where != set(technique.layers):
        raise LayerNotFound(f"technique.layers: got {list(technique.layers)}, but adapters are in {sorted(map(str, where))}")
    blocks = [name for name, _ in _blocks(model)]
    routing = [name for name in learning for block in blocks if _routes(name.removeprefix(f"{block}."), name, block)]
    if routing and technique.router == "frozen":
        raise WouldRouteAnew(f"technique.target_modules would train the router: {routing[0]}; name the modules of the attention only")
    inside = sum(1 for name in learning if f".{EXPERTS}." in name)
    if inside and not technique.expert_rank:
        raise WouldRouteAnew("technique.target_modules would train routed experts; write technique.experts: all, or leave their names out")
    # Two small matrices for each expert parameter.
    chosen = [name for name, _ in model.named_parameters() if technique.layers is None or layer_of(name) in technique.layers]
    wanted = 2 * sum(1 for name in chosen if _is_expert_weight(name))
    if technique.expert_rank and inside != wanted:
        raise ExpertsNotAdapted(f"technique.experts: all: {inside // 2} of {wanted // 2} expert parameters have got an adapter")
    _check_ranks(model)


@torch.no_grad()
def leave_other_experts_at_zero(model: nn.Module, experts: Collection[int]) -> None:
    """Make the adapters of all experts but these nothing, for good.

    The second half of an adapter begins at zero. With the first at zero too, both gradients are exactly zero: each is a product with the
    other half.
    """
    for _, wrapper in expert_adapters(model):
        others = [expert for expert in range(wrapper.num_experts) if expert not in experts]
        for half in wrapper.lora_A.values():
            half.weight.view(wrapper.num_experts, -1, half.weight.shape[-1])[others] = 0.0


def expert_adapters(model: nn.Module) -> Iterator[tuple[int, ParamWrapper]]:
    """The adapters beside fused experts, each with the number of its layer."""
    for name, module in model.named_modules():
        layer = layer_of(name)
        if layer is not None and EXPERTS in name.split(".") and isinstance(module, ParamWrapper):
            yield layer, module


def _check_ranks(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        rank, smaller = max(module.r.values()), min(module.in_features, module.out_features)
        if rank > smaller:
            plain = _plain(f"{name}.{module.parameter_name}" if isinstance(module, ParamWrapper) else name)
            raise RankTooLarge(
                f"technique.rank: {plain} is {module.out_features} x {module.in_features} and would get an adapter of rank {rank}, larger "
                f"than the matrix; want {smaller} or less there: lower the rank, or leave this matrix out of technique.target_modules"
            )


def _check_layers(model: nn.Module, technique: Technique) -> None:
    count = len({layer_of(name) for name, _ in model.named_parameters()} - {None})
    beyond = [number for number in technique.layers or () if not 0 <= number < count]
    if beyond or technique.layers == ():
        raise LayerNotFound(f"technique.layers: got {beyond[0] if beyond else 'none'}, want 0 to {count - 1}: the model has {count} layers")


def _check_routed(routed: Sequence[str], technique: Technique, *, experts: int) -> None:
    for wanted, field, got, found in (
        (technique.expert_rank > 0, "experts", technique.experts or "all", any(_is_expert_weight(name) for name in routed)),
        (technique.router == "train", "router", "train", any(not _is_expert_weight(name) for name in routed)),
    ):
        if wanted and not found:
            raise ExpertsNotAdapted(f"technique.{field}: got {got}, but this model has no fused experts in these layers; leave it out")
    beyond = [number for number in technique.experts or () if not 0 <= number < experts]
    if technique.expert_rank and beyond:
        raise ExpertsNotAdapted(f"technique.experts: got {beyond[0]}, want 0 to {experts - 1}: a layer has {experts} experts")


def _linear(model: nn.Module, technique: Technique) -> tuple[str | list[str], list[str]]:
    named = technique.target_modules
    if named != "all-linear":
        _check_named(model, named)
        return list(named), []
    if not any(True for _ in _blocks(model)):
        # PEFT takes layers out of named modules only.
        return "all-linear" if technique.layers is None else sorted({name.rsplit(".", 1)[-1] for name in _adaptable(model)}), []
    linear = list(_adaptable(model))
    modules = sorted({name.rsplit(".", 1)[-1] for name in linear} - _RENAMED)
    parameters = {".".join(name.split(".")[-2:]) + ".weight" for name in linear if name.rsplit(".", 1)[-1] in _RENAMED}
    if technique.type == "qlora":
        # An adapter of a parameter is added to it, and packed weights cannot be added to.
        return modules, []
    odd = [name for name in ("use_dora", "use_pissa", "dropout") if getattr(technique, name)]
    if parameters and odd:
        raise NotBesideParameters(
            f"technique: {odd[0]} has no place beside this model's {min(parameters)}; leave it "
            f"out, or write technique.target_modules: [{', '.join(modules)}]"
        )
    return modules, sorted(parameters)


def _check_named(model: nn.Module, named: Iterable[str]) -> None:
    names = {name for name, _ in model.named_modules()}
    missing = [target for target in named if not any(name == target or name.endswith(f".{target}") for name in names)]
    if missing:
        linear = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
        raise TargetNotFound(f"technique.target_modules: {', '.join(missing)} not in this model, which has {', '.join(linear)}")


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hold experts, by name."""
    return ((name, module) for name, module in model.named_modules() if EXPERTS in dict(module.named_children()))


def _adaptable(model: nn.Module) -> Iterator[str]:
    """Names of the linear modules that are neither the output head, nor of a router, nor of routed experts."""
    blocks = {name for name, _ in _blocks(model)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for name, module in model.named_modules():
        outside = f".{EXPERTS}." not in name and name.rpartition(".")[0] not in blocks
        if outside and isinstance(module, nn.Linear) and module is not head:
            yield name


def _is_fused_expert(name: str, parameter: nn.Parameter) -> bool:
    return _is_expert_weight(name) and parameter.ndim == 3


def _routers(model: nn.Module, *, experts: int) -> list[str]:
    """Names of the matrices that give each expert a score."""
    return [
        name
        for name, parameter in model.named_parameters()
        for block, _ in _blocks(model)
        if _routes(name.removeprefix(f"{block}."), name, block) and parameter.ndim == 2 and parameter.shape[0] == experts
    ]


def layer_of(name: str) -> int | None:
    """The number of the layer that a parameter or module is in."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def _in_its_layer(name: str) -> str:
    """From its block on: `mlp.experts.gate_up_proj`, `mlp.gate.weight`."""
    return ".".join(name.split(".")[-3:])


def _with_path(model: nn.Module, parameters: Iterable[str], layer: int) -> Iterator[str]:
    """What the parameters are called in this layer, which may not have all of them."""
    for name, _ in model.named_parameters():
        if layer_of(name) == layer and any(name.endswith(f".{parameter}") for parameter in parameters):
            yield name.split(f".{layer}.", 1)[1]


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "base_layer").removeprefix("base_model.model.")


def _is_expert_weight(name: str) -> bool:
    """Of the model as it was or with adapters around it; biases of experts have no adapters."""
    *path, last = [part for part in name.split(".") if part != "base_layer"]
    return path[-1:] == [EXPERTS] and "bias" not in last


def _routes(inside: str, name: str, block: str) -> bool:
    """Whether a parameter belongs to a direct neighbour of the experts that has no parts of its own: a router or a gate."""
    if not name.startswith(f"{block}."):
        return False
    plain = [part for part in inside.split(".") if part not in ("base_layer", "default") and not part.startswith("lora_")]
    return plain[0] != EXPERTS and len(plain) <= 2
