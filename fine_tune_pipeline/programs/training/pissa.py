"""PiSSA: adapters begin as the strongest directions of the weights, which are taken out of the weights meanwhile.

What is kept of a training must stand beside the weights as they were. So the start is remembered, and saving turns `start -> end` into a
plain LoRA adapter of twice the rank (PEFT's own conversion): `W + (end - start)`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

INITIALISATION = "pissa_niter_16"
"""By sixteen steps of a randomised decomposition, which PEFT calls equal in effect to the exact one: that takes minutes for large matrices.
The model answers as before either way, since the weights keep what the adapters do not hold."""

_STARTS = "pissa_start"


def remember_start(model: PeftModel) -> None:
    """Keep what the adapters are now, in the main memory, for `without_start`."""
    setattr(model, _STARTS, {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in _now(model).items()})


def moved_since_start(model: nn.Module) -> list[str]:
    """Names of the second halves of adapters that are no longer what they were."""
    now, start = _now(model), _start(model) or {}
    return [name for name, was in start.items() if "lora_B" in name and not torch.equal(now[name].cpu().to(was.dtype), was)]


@contextmanager
def without_start(model: nn.Module) -> Iterator[str | None]:
    """A folder with the start, as PEFT wants it for saving what was learned beside the weights as they were; None without PiSSA."""
    start = _start(model)
    if start is None:
        yield None
        return
    with TemporaryDirectory() as folder:
        place = Path(folder) / _STARTS
        place.mkdir()
        save_file(start, place / "adapter_model.safetensors")
        yield str(place)


def _start(model: nn.Module) -> dict[str, Tensor] | None:
    return getattr(model, _STARTS, None)


def _now(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
