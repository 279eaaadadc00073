"""PiSSA: adapters begin as the strongest directions of the weights, which are taken out of the weights meanwhile.

What is kept of a training must stand beside the weights as they were. So the start is remembered, and saving turns `start -> end` into a
plain LoRA adapter of twice the rank (PEFT's own conversion): `W + (end - start)`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

INITIALISATION = "pissa_niter_16"
"""By sixteen steps of a randomised decomposition, which PEFT calls equal in effect to the exact one: that takes minutes for large matrices.
The model answers as before either way, since the weights keep what the adapters do not hold."""

_STARTS = "pissa_start"


def remember_start(model: PeftModel) -> None:
    """Keep what the adapters are now, in the main memory, for `without_start`."""
    start = get_peft_model_state_dict(model, save_embedding_layers=False)
    setattr(model, _STARTS, {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in start.items()})


@contextmanager
def without_start(model: nn.Module) -> Iterator[str | None]:
    """A folder with the start, as PEFT wants it for saving what was learned beside the weights as they were; None without PiSSA."""
    start: dict[str, Tensor] | None = getattr(model, _STARTS, None)
    if start is None:
        yield None
        return
    with TemporaryDirectory() as folder:
        place = Path(folder) / _STARTS
        place.mkdir()
        save_file(start, place / "adapter_model.safetensors")
        yield str(place)
