"""Where and how a program runs on a place: changes speed, memory and rounding, not what is learned."""

from typing import TYPE_CHECKING

from fine_tune_pipeline.guide.technique.rules import Rule
from fine_tune_pipeline.programs.requests import Placement
from fine_tune_pipeline.spec.training import Auto, Compiling, Precision

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.inventory import Inventory

RECOMPUTE_COST = 0.31
"""Of LoRA's throughput, by counting operations: one more forward pass of the layers. Full tuning loses 24 %."""

CPU_WORDS = ", and enough to keep the cores of a CPU busy"


def training_on(
    inventory: "Inventory",
    *,
    dtype: Auto | Precision = "auto",
    micro_batch: int = 8,
    gradient_checkpointing: bool = False,
    compile: Compiling = "never",
) -> Placement:
    """The first device of the place, a CPU with all its cores.

    Args:
        dtype: auto: bfloat16 where the device has units for it. On a CPU with them, training Gemma 3 270M took 0.6 of the time of float32;
            on one without, bfloat16 products were five times slower. Preflight measures the ratio where training will run.
        micro_batch: rows per forward pass.
        compile: auto: not on a CPU; on an accelerator the program looks whether it can be done.
    """
    device = inventory.devices[0]
    return Placement(
        device=device.kind,
        dtype=("bfloat16" if device.bfloat16 else "float32") if dtype == "auto" else dtype,
        micro_batch=micro_batch,
        gradient_checkpointing=gradient_checkpointing,
        compile="never" if compile == "auto" and device.kind == "cpu" else compile,
        threads=inventory.cpu_cores if device.kind == "cpu" else None,
    )


def answering_on(inventory: "Inventory") -> Placement:
    """As for training, but float32 on every CPU: an answer must not depend on its neighbours in a batch, and it is short."""
    return training_on(inventory, dtype="float32" if inventory.devices[0].kind == "cpu" else "auto")


def placement_rules(placement: Placement, *, effective_batch: int, asked: Auto | Precision, missing_gib: float) -> tuple[Rule, ...]:
    """Why it runs so, beside the hyper-parameters.

    Args:
        effective_batch: rows of a step; with several processes, those of one.
        asked: training.dtype of the use case.
        missing_gib: what would be missing without computing activations again, with one row in a pass; below 0 there is room.
    """
    passes = -(-effective_batch // placement.micro_batch)
    return (
        Rule("dtype", placement.dtype, _why_dtype(placement, asked)),
        Rule("micro_batch", placement.micro_batch, f"rows in one pass: the most that fit{CPU_WORDS if placement.device == 'cpu' else ''}"),
        Rule("accumulation", passes, f"passes of {placement.micro_batch} rows make a step of {effective_batch}"),
        Rule("compile", placement.compile, _WHY_COMPILED[placement.compile]),
        Rule("gradient_checkpointing", placement.gradient_checkpointing, _why_recompute(placement, missing_gib)),
    )


_WHY_COMPILED = {
    "auto": "the device is an accelerator; the result says how many layers were compiled",
    "always": "as written",
    "never": "as written, or on a CPU: its time is in matrix products, which torch.compile leaves as they are",
}


def _why_dtype(placement: Placement, asked: Auto | Precision) -> str:
    if asked != "auto":
        return "as written"
    if placement.dtype == "bfloat16":
        return "the device has units for it"
    return "the device has no units for bfloat16, whose products would be about five times slower"


def _why_recompute(placement: Placement, missing_gib: float) -> str:
    if placement.gradient_checkpointing:
        return f"one row in a pass would need {missing_gib:.2f} GiB more than there are; it costs about {RECOMPUTE_COST:.0%} of the speed"
    return f"there is room without; it would cost about {RECOMPUTE_COST:.0%} of the speed"
