"""The state of every random generator that a training draws from."""

import random
from typing import Any

import numpy
import torch

States = dict[str, Any]
"""By the names under which transformers keeps them in a checkpoint."""


def states() -> States:
    """As they are now."""
    found: States = {"python": random.getstate(), "numpy": numpy.random.get_state(), "cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def restore(kept: States) -> None:
    """As they were."""
    random.setstate(kept["python"])
    numpy.random.set_state(kept["numpy"])
    torch.set_rng_state(kept["cpu"])
    if "cuda" in kept:
        torch.cuda.set_rng_state(kept["cuda"])
