"""`torch.compile` for the layers of a model, one by one: the same code once for all of them, minutes faster than the whole model."""

from torch import nn
from transformers import PreTrainedModel


class NoLayersToCompile(ValueError):
    """The architecture does not say what its layers are."""


def compile_layers(model: PreTrainedModel) -> int:
    """Compile every repeated layer in place, for batches of any number of tokens; how many there were.

    Call it once adapters are on the model: they become part of each layer. Checkpoints keep their names. On a CPU it does not pay here: the
    time is in matrix products, and rows of ever new lengths are compiled anew. On CUDA it was not tried yet.

    Raises:
        NoLayersToCompile: nothing in the model has a class that it names as its repeated layer.
    """
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names and not isinstance(module, nn.Embedding)]
    if not layers:
        raise NoLayersToCompile(f"{type(model).__name__} does not name its layers; leave compile out of the placement for this base model")
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)
