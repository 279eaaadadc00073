"""A training that several processes share, as the plan counts it."""

from typing import TYPE_CHECKING

from fine_tune_pipeline.guide.technique.rules import Rule
from fine_tune_pipeline.programs.requests import Hyperparameters, Parallel, Technique
from fine_tune_pipeline.programs.training.together import not_in_parts, not_together

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.inventory import Inventory


def rows_of_one(effective_batch: int, processes: int) -> int:
    """Of a step, in the process that has most."""
    return -(-effective_batch // processes)


def speedup(effective_batch: int, devices: int) -> float:
    """Over one device. A step takes as long as the largest share of its rows; what devices tell each other is not counted."""
    return effective_batch / rows_of_one(effective_batch, devices)


def refusal(technique: Technique, hyperparameters: Hyperparameters, inventory: "Inventory") -> str | None:
    """Why the processes of the place cannot train this together; None if they can, or if there is one."""
    if inventory.processes == 1:
        return None
    cut = not_in_parts(technique) if inventory.parts > 1 else None
    return cut or not_together(hyperparameters, in_parts=inventory.parts > 1)


def sharing_rules(*, processes: int, parallel: Parallel, trained_on: int, effective_batch: int) -> tuple[Rule, ...]:
    """How they share it; nothing with one process."""
    if processes == 1:
        return ()
    rows = rows_of_one(effective_batch, processes)
    faster = speedup(effective_batch, trained_on)
    time = f"minutes are those of one divided by {faster:.3g}, without what they tell each other" if faster > 1 else "no faster than one"
    return (
        Rule("processes", processes, f"of compute.place; each learns from {rows} of the {effective_batch} rows of a step: {time}"),
        Rule("parallel", parallel, _WHAT_ONE_HOLDS[parallel]),
    )


_WHAT_ONE_HOLDS = {
    "ddp": "each process holds the whole model: predicted memory is that of one",
    "fsdp2": "each process holds a part of the model, and in a pass embedding, head and two layers whole: predicted memory is that of one",
}
