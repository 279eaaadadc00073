"""Which matrices of a model get adapters; of a mixture of experts, so that its router stays as it is.

PEFT's own `all-linear` adapts the router of a mixture of experts too, and a name such as `gate_proj` means the experts there, even where
a shared expert or a dense layer has a module of that name. So such a model is looked at here: attention by the names of its modules,
everything in its MLPs by the names of its parameters.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from fine_tune_pipeline.programs.requests import Technique

EXPERTS = "experts"
"""The module that holds the routed experts, fused into one parameter for each of their matrices; its neighbours route or are shared."""

_RENAMED = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
"""Names of modules that PEFT reads as those of routed experts or of the router."""


class TargetNotFound(ValueError):
    """A module that the technique names is not in the model: it would silently stay as it is."""


class ExpertsNotAdapted(ValueError):
    """The technique wants adapters beside the experts, and not every expert parameter got one."""


class WouldRouteAnew(ValueError):
    """The named targets would train a router, or experts that the technique leaves frozen."""


class NotBesideParameters(ValueError):
    """DoRA or dropout, where PEFT must add the adapter to the weights themselves."""


@dataclass(frozen=True)
class Targets:
    """Names of modules, of parameters, and of the experts' parameters, as PEFT is told."""

    modules: str | list[str]
    parameters: list[str]
    experts: list[str]

    def options(self, technique: Technique) -> dict[str, Any]:
        """As arguments of `LoraConfig`. Scaling is the same everywhere, whatever the rank."""
        chosen: dict[str, Any] = {"r": technique.rank, "lora_alpha": technique.alpha, "target_modules": self.modules}
        if self.parameters or self.experts:
            chosen["target_parameters"] = self.parameters + self.experts
        if not self.experts:
            return chosen
        # The experts' rank is the rule and the others' the exception: PEFT warns of patterns that match parameters only.
        share = technique.expert_rank / technique.rank
        alpha = technique.alpha * (math.sqrt(share) if technique.use_rslora else share)
        others = "|".join(re.escape(name) for name in [*self.modules, *(name.split(".", 1)[1] for name in self.parameters)])
        patterns = {"rank_pattern": technique.rank, "alpha_pattern": technique.alpha}
        return (
            chosen
            | {"r": technique.expert_rank, "lora_alpha": alpha}
            | {name: {rf".*\.({others})": value} for name, value in patterns.items()}
        )


def targets_of(model: nn.Module, technique: Technique) -> Targets:
    """The matrices that the technique adapts.

    Raises:
        TargetNotFound: a named target module is nowhere in the model.
        ExpertsNotAdapted: experts are to learn and the model has none.
        NotBesideParameters: DoRA or dropout on shared experts or dense layers of a mixture of experts.
    """
    experts = sorted(_expert_parameters(model)) if technique.expert_rank else []
    if technique.expert_rank and not experts:
        raise ExpertsNotAdapted("technique.experts: got all, but this model has no fused experts; leave it out")
    modules, parameters = _linear(model, technique)
    return Targets(modules, parameters, experts)


def check_adapted(model: nn.Module, technique: Technique) -> None:
    """Look at what PEFT has made trainable.

    Raises:
        WouldRouteAnew: a router learns, or experts that should not.
        ExpertsNotAdapted: experts should learn and one of their parameters has no adapter.
    """
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    blocks = [name for name, _ in _blocks(model)]
    routing = [name for name in learning for block in blocks if _routes(name.removeprefix(f"{block}."), name, block)]
    if routing:
        raise WouldRouteAnew(f"technique.target_modules would train the router: {routing[0]}; name the modules of the attention only")
    inside = sum(1 for name in learning if f".{EXPERTS}." in name)
    if inside and not technique.expert_rank:
        raise WouldRouteAnew("technique.target_modules would train routed experts; write technique.experts: all, or leave their names out")
    # Two small matrices for each expert parameter.
    wanted = 2 * sum(1 for name, _ in model.named_parameters() if _is_expert_weight(name))
    if technique.expert_rank and inside != wanted:
        raise ExpertsNotAdapted(f"technique.experts: all: {inside // 2} of {wanted // 2} expert parameters have got an adapter")


def _linear(model: nn.Module, technique: Technique) -> tuple[str | list[str], list[str]]:
    named = technique.target_modules
    if named != "all-linear":
        _check_named(model, named)
        return list(named), []
    if not any(True for _ in _blocks(model)):
        return "all-linear", []
    linear = list(_adaptable(model))
    modules = sorted({name.rsplit(".", 1)[-1] for name in linear} - _RENAMED)
    parameters = {".".join(name.split(".")[-2:]) + ".weight" for name in linear if name.rsplit(".", 1)[-1] in _RENAMED}
    if technique.type == "qlora":
        # An adapter of a parameter is added to it, and packed weights cannot be added to.
        return modules, []
    if parameters and (technique.use_dora or technique.dropout):
        raise NotBesideParameters(
            f"technique: {'use_dora' if technique.use_dora else 'dropout'} has no place beside this model's {min(parameters)}; leave it "
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


def _expert_parameters(model: nn.Module) -> set[str]:
    """Names of the fused weights of the experts, from the block on: `mlp.experts.gate_up_proj`."""
    return {
        ".".join(name.split(".")[-3:]) for name, parameter in model.named_parameters() if _is_expert_weight(name) and parameter.ndim == 3
    }


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
