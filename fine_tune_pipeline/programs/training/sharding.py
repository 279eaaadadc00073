"""A model in parts (FSDP2): each process keeps a slice of every weight, and gets the rest of a layer while it computes it.

Adapters stay whole in every process, as with whole models: they are small, and so are their gradients. What a checkpoint or an artifact
holds is always whole, so that any number of processes can go on from it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.head import base_of
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.programs.training.together import not_in_parts

T = TypeVar("T")


class NotInParts(ValueError):
    """The model cannot be trained in parts."""


class Whole(nn.Module):
    """What is computed with a model as the forward of a module, around which FSDP gathers what lies outside of the layers: embedding,
    last norm, head."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[nn.Module], T]) -> T:
        return compute(self.model)

    def part(self) -> None:
        """Give back what a forward pass without a backward pass has left gathered."""
        for module in self.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def check_shardable(technique: Technique) -> None:
    """Raises: NotInParts: the weights are of a kind that cannot be cut."""
    if refused := not_in_parts(technique):
        raise NotInParts(refused)


def sharded(model: PreTrainedModel | PeftModel, *, device: torch.device, size: int) -> Whole:
    """Cut the model, layer by layer, and move the parts to the device. Gradients of parts are sums over all processes, as `Team.add` makes.

    Raises:
        NotInParts: it has no layers that are known not to be split.
    """
    mesh = init_device_mesh(device.type, (size,))
    adapters = {each for each in model.parameters() if each.requires_grad} if isinstance(model, PeftModel) else set()
    for each in adapters:
        each.data = each.data.to(device)
    layers = _layers(base_of(model))
    whole = Whole(model)
    for module in (*layers, whole):
        fully_shard(module, mesh=mesh, ignored_params=adapters)
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # The factor alone wants an operation that only NCCL has.
            module.set_force_sum_reduction_for_comms(True)
    return whole


def _layers(base: PreTrainedModel) -> list[nn.Module]:
    names = set(base._no_split_modules or ())
    found = [module for module in base.modules() if type(module).__name__ in names]
    if not found:
        raise NotInParts(f"{type(base).__name__} does not say what its layers are; take compute.place.parallel: ddp")
    return found


def number(scalar: Tensor) -> float:
    """Of all parts together."""
    return float(scalar.full_tensor() if isinstance(scalar, DTensor) else scalar)


def on_cpu(value: Any, *, keep: bool = True) -> Any:
    """The same state with whole tensors on the CPU instead of parts. Every process has to ask for it, also one that does not keep it."""
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(value, dict):
        return {key: on_cpu(each, keep=keep) for key, each in value.items()}
    return value


def weights(whole: Whole, *, keep: bool = True) -> dict[str, Tensor]:
    """The state of a model in parts, as `on_cpu` gives it; what has several names is once in memory."""
    whole.part()
    model = whole.model
    known = {parameter: on_cpu(parameter.detach(), keep=keep) for parameter in model.parameters()}
    named = {name: known[parameter] for name, parameter in model.named_parameters(remove_duplicate=False)}
    return {name: named.get(name, value) for name, value in model.state_dict().items()}


def cut_when_loaded(optimizer: Optimizer) -> Callable[[], None]:
    """From now on, a whole state that is loaded into the optimizer is cut as its parameters are."""

    def cut(loading: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        parameters = [each for group in loading.param_groups for each in group["params"]]
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        found = dict(zip(numbers, parameters, strict=True))
        parts = {number: {name: _like(found[number], value) for name, value in of_one.items()} for number, of_one in state["state"].items()}
        return {**state, "state": parts}

    return optimizer.register_load_state_dict_pre_hook(cut).remove


def _like(parameter: Tensor, value: Any) -> Any:
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    # Every process has read the same: nothing needs to be told.
    whole = value.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
