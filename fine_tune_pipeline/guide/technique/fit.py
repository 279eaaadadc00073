"""Whether the plan fits; by how much not, and the smallest change with which it would."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fine_tune_pipeline.artifacts.manifest import Check
from fine_tune_pipeline.guide.base_model.memory import GIB
from fine_tune_pipeline.guide.technique.plan import Job, Option, Place, Plan, option_of


def fits(plan: Plan, job: Job, place: Place) -> Check:
    """Whether the chosen plan fits; otherwise by how much not, and the nearest setting that would."""
    need, have = plan.predicted_peak_bytes / GIB, place.memory_bytes / GIB
    said = f"{plan.technique.label} needs about {need:.2f} GiB, {have:.2f} GiB of {place.inventory.devices[0].name} may be used"
    if plan.processes > 1:
        said += f" by each of {plan.processes} processes"
    if plan.chosen.refused:
        said = plan.chosen.refused
    elif not plan.chosen.fits:
        said += f", with one row in a pass and activations computed again; {need - have:.2f} GiB are missing. {nearest(plan, job, place)}"
    return Check(name="fits", passed=plan.chosen.fits, description=said, metadata={"predicted_gib": need, "usable_gib": have})


def nearest(plan: Plan, job: Job, place: Place) -> str:
    """The smallest change to the use case with which training would fit."""
    named = {option.technique.label: option for option in plan.options if option.fits}
    for label, written in (("lora", "{type: lora}"), ("qlora", "{type: qlora}"), ("full", "{type: full}")):
        if label in named and label != plan.technique.label:
            return f"technique: {written} would fit."
    if (cut := _in_parts(plan, job, place)) is not None:
        return f"compute.place.parallel: fsdp2 would fit, with technique {cut}."
    for field, value, why in _smaller(plan, job, units=place.inventory.devices[0].bfloat16):
        if _with(plan, job, place, **{field: value}).fits:
            return f"training.{field}: {value} would fit{why}."
    return "No setting of this base model fits: choose a smaller one in base_model.candidates, or a place with more memory."


def _in_parts(plan: Plan, job: Job, place: Place) -> str | None:
    """The technique, the chosen one if that can be, with which these devices have room for the model when each holds a part of it."""
    if plan.trained_on == 1 or plan.parts > 1:
        return None
    cut = replace(place, inventory=place.inventory.model_copy(update={"parallel": "fsdp2"}))
    ordered = sorted((option.technique for option in plan.options), key=lambda one: (one != plan.technique, one.label != "lora"))
    return next((one.label for one in ordered[:2] if option_of(job, one, cut).fits), None)


def _smaller(plan: Plan, job: Job, *, units: bool) -> Iterator[tuple[str, Any, str]]:
    """Changes to the section `training`, those that cost least first."""
    if units and plan.placement.dtype == "float32" and plan.technique.type != "full":
        yield "dtype", "bfloat16", ", with half the bytes for each number"
    longest = min(job.work.longest_tokens, plan.hyperparameters.max_length)
    for length in range(longest // 16 * 16, 15, -16):
        yield "max_length", length, "; longer rows are then left out, up to training.over_long_limit"


def _with(plan: Plan, job: Job, place: Place, **changed: Any) -> Option:
    other = replace(job, training=job.training.model_copy(update=changed))
    return option_of(other, plan.technique, place)
