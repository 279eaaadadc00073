"""Where and how a program runs on a place: changes speed, memory and rounding, not what is learned."""

from typing import TYPE_CHECKING

from fine_tune_pipeline.programs.requests import Placement
from fine_tune_pipeline.spec.training import Auto, Precision

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.inventory import Inventory


def training_on(
    inventory: "Inventory",
    *,
    dtype: Auto | Precision = "auto",
    micro_batch: int = 8,
    gradient_checkpointing: bool = False,
) -> Placement:
    """The first device of the place, a CPU with all its cores.

    Args:
        dtype: auto: bfloat16 where the device has units for it. On a CPU with them, training Gemma 3 270M took 0.6 of the time of float32;
            on one without, bfloat16 products were five times slower. Preflight measures the ratio where training will run.
        micro_batch: rows per forward pass.
    """
    device = inventory.devices[0]
    return Placement(
        device=device.kind,
        dtype=("bfloat16" if device.bfloat16 else "float32") if dtype == "auto" else dtype,
        micro_batch=micro_batch,
        gradient_checkpointing=gradient_checkpointing,
        threads=inventory.cpu_cores if device.kind == "cpu" else None,
    )


def answering_on(inventory: "Inventory") -> Placement:
    """As for training, but float32 on every CPU: an answer must not depend on its neighbours in a batch, and it is short."""
    return training_on(inventory, dtype="float32" if inventory.devices[0].kind == "cpu" else "auto")
