"""`torch.compile` for the layers of a model, one by one: the same code once for all of them, minutes faster than the whole model."""

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec

from torch import nn
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.requests import Placement

INDUCTOR = "inductor"

BACKEND = INDUCTOR
"""Of torch.compile: its own default, which writes C++ for a CPU and Triton for an accelerator."""


class NotCompiled(ValueError):
    """Layers were to be compiled and cannot be."""


class NoLayersToCompile(NotCompiled):
    """The architecture does not say what its layers are."""


class InParts(NotCompiled):
    """Each process has a part of the model only, which was not tried with compiled layers."""


class NoCompiler(NotCompiled):
    """The machine has nothing to compile with."""


def compiled_as_placed(model: PreTrainedModel, placement: Placement, *, say: Callable[[str], None], sharded: bool = False) -> int:
    """Compile the layers if the placement wants it; how many are compiled.

    Args:
        placement: with `auto`, what cannot be compiled is trained as it is.
        say: hears why not.
        sharded: each process has a part of the model.

    Raises:
        NoLayersToCompile, NoCompiler, InParts: with `always`.
    """
    if placement.compile == "never":
        return 0
    try:
        if sharded:
            raise InParts("each process has a part of the model; write training.compile: never, or train with whole models (ddp)")
        # Not that of the model, which may be moved there later.
        refuse_without_compiler(placement.device.partition(":")[0])
        return compile_layers(model)
    except NotCompiled as error:
        if placement.compile == "always":
            raise
        say(f"the layers are not compiled: {error}")
        return 0


def refuse_without_compiler(device: str) -> None:
    """What torch.compile would find out in the middle of the first step.

    Raises:
        NoCompiler: says what is missing.
    """
    if BACKEND != INDUCTOR:
        return
    wanted = [os.environ.get("CXX", "g++")] if device == "cpu" else [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang", "cc"]
    missing = [] if any(shutil.which(name) for name in wanted) else [f"{' or '.join(wanted)} on the PATH"]
    missing += ["the package triton"] if device != "cpu" and find_spec("triton") is None else []
    if missing:
        raise NoCompiler(f"torch.compile on {device} needs {' and '.join(missing)}; install it, or write training.compile: never")


def compile_layers(model: PreTrainedModel) -> int:
    """Compile every repeated layer in place, for batches of any number of tokens; how many there were.

    Call it once adapters are on the model: they become part of each layer. Checkpoints keep their names. On a CPU it does not pay here: the
    time is in matrix products. On CUDA it was not tried yet.

    Raises:
        NoLayersToCompile: nothing in the model has a class that it names as its repeated layer.
    """
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names and not isinstance(module, nn.Embedding)]
    if not layers:
        raise NoLayersToCompile(f"{type(model).__name__} does not name its layers; write training.compile: never for this base model")
    for layer in layers:
        layer.compile(dynamic=True, backend=BACKEND)
    return len(layers)
