"""The plan: full, LoRA and QLoRA side by side on the hardware at hand, the choice, and whether it fits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fine_tune_pipeline.artifacts.manifest import Check
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.duration import kilowatt_hours, training_seconds
from fine_tune_pipeline.guide.base_model.hardware import speed
from fine_tune_pipeline.guide.base_model.memory import GIB, trainable_parameters, training_memory
from fine_tune_pipeline.guide.technique.placement import training_on
from fine_tune_pipeline.guide.technique.rules import Resolved, resolve, techniques
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.requests import Contract, Hyperparameters, Placement, Technique
from fine_tune_pipeline.spec.technique import Auto, TechniqueSpec
from fine_tune_pipeline.spec.training import TrainingSpec

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.inventory import Inventory

FILE = "plan.json"

CPU_TOKENS = 1000
"""Tokens in one forward pass on a CPU: enough to keep its cores busy, and more only takes memory."""

FULL_ROWS = 50_000
"""Rows from which training all weights can use what they hold."""

FULL_SHARE = 0.8
"""Of the memory, for full tuning to be chosen: its optimizer leaves no smaller setting to fall back to."""


class Option(Contract):
    """One technique as it would run here. `fits` is against the memory without the head-room that the use case asks for."""

    technique: Technique
    hyperparameters: Hyperparameters
    placement: Placement
    trainable_parameters: int
    peak_bytes: int
    seconds: float
    kilowatt_hours: float | None
    fits: bool

    def row(self) -> dict[str, object]:
        """As a table shows it."""
        return {
            "technique": self.technique.type,
            "trained parameters": self.trainable_parameters,
            "predicted GiB": round(self.peak_bytes / GIB, 2),
            "predicted minutes": round(self.seconds / 60, 1),
            "predicted kWh": None if self.kilowatt_hours is None else round(self.kilowatt_hours, 2),
            "rows per pass": self.placement.micro_batch,
            "recompute": self.placement.gradient_checkpointing,
            "learning rate": self.hyperparameters.learning_rate,
            "fits": self.fits,
        }


class Plan(Contract):
    """What `environment` and `adapter` read: `plan.json`."""

    technique: Technique
    hyperparameters: Hyperparameters
    placement: Placement
    options: tuple[Option, ...]
    reason: str
    memory_bytes: int
    predicted_peak_bytes: int
    predicted_seconds: float
    labelled_share: float

    @property
    def chosen(self) -> Option:
        return next(option for option in self.options if option.technique == self.technique)


@dataclass(frozen=True)
class Place:
    """The hardware as the plan sees it. `memory_bytes` is what may be used, head-room taken off."""

    inventory: "Inventory"
    memory_bytes: int

    @classmethod
    def of(cls, inventory: "Inventory", *, headroom: float) -> "Place":
        return cls(inventory=inventory, memory_bytes=int(inventory.devices[0].memory_bytes * (1 - headroom)))


@dataclass(frozen=True)
class Job:
    """What is to be trained: the model, the text, and what the user asked for."""

    model: Architecture
    context: int
    work: Workload
    technique: TechniqueSpec
    training: TrainingSpec


def make_plan(job: Job, place: Place) -> tuple[Plan, Resolved]:
    """All options on this hardware, and the chosen one with its hyper-parameters and the rules that gave them."""
    offered = techniques(job.technique, job.model, job.work)
    options = tuple(option_of(job, technique, place) for technique in offered)
    chosen, reason = _choice(job, options, place)
    plan = Plan(
        technique=chosen.technique,
        hyperparameters=chosen.hyperparameters,
        placement=chosen.placement,
        options=options,
        reason=reason,
        memory_bytes=place.memory_bytes,
        predicted_peak_bytes=chosen.peak_bytes,
        predicted_seconds=chosen.seconds,
        labelled_share=job.work.labelled_share,
    )
    return plan, resolve(job.training, chosen.technique, job.model, job.work, context=job.context)


def option_of(job: Job, technique: Technique, place: Place) -> Option:
    """One technique with the largest forward pass that fits; recomputing activations only when it does not fit without."""
    hyperparameters = resolve(job.training, technique, job.model, job.work, context=job.context).hyperparameters
    placements = list(_placements(job, hyperparameters, place.inventory))
    peaks = [_peak_bytes(job, technique, hyperparameters, placement) for placement in placements]
    fitting = [number for number, peak in enumerate(peaks) if peak <= place.memory_bytes]
    taken = fitting[0] if fitting else len(placements) - 1
    at = speed(place.inventory)
    checkpointing = placements[taken].gradient_checkpointing
    seconds = training_seconds(job.model, technique, job.work.seen, epochs=hyperparameters.epochs, at=at, checkpointing=checkpointing)
    return Option(
        technique=technique,
        hyperparameters=hyperparameters,
        placement=placements[taken],
        trainable_parameters=trainable_parameters(job.model, technique),
        peak_bytes=peaks[taken],
        seconds=seconds,
        kilowatt_hours=kilowatt_hours(seconds, at=at),
        fits=bool(fitting),
    )


def fits(plan: Plan, job: Job, place: Place) -> Check:
    """Whether the chosen plan fits; otherwise by how much not, and the nearest setting that would."""
    need, have = plan.predicted_peak_bytes / GIB, place.memory_bytes / GIB
    said = f"{plan.technique.type} needs about {need:.2f} GiB, {have:.2f} GiB of {place.inventory.devices[0].name} may be used"
    if not plan.chosen.fits:
        said += f"; {need - have:.2f} GiB are missing. {nearest(plan, job, place)}"
    return Check(name="fits", passed=plan.chosen.fits, description=said, metadata={"predicted_gib": need, "usable_gib": have})


def nearest(plan: Plan, job: Job, place: Place) -> str:
    """The smallest change to the use case with which training would fit."""
    others = [name for name in ("lora", "qlora", "full") for option in plan.options if option.fits and option.technique.type == name]
    if others:
        return f"technique: {{type: {others[0]}}} would fit."
    length = _longest_that_fits(plan, job, place)
    if length is not None:
        return f"training.max_length: {length} would fit; longer rows are then left out, up to training.over_long_limit."
    return "No setting of this base model fits: choose a smaller one in base_model.candidates, or a place with more memory."


def _choice(job: Job, options: Sequence[Option], place: Place) -> tuple[Option, str]:
    named = {option.technique.type: option for option in options}
    full, lora, qlora = named["full"], named["lora"], named["qlora"]
    if not isinstance(job.technique, Auto):
        return named[job.technique.type], f"{job.technique.type}: as the use case says"
    if job.work.rows > FULL_ROWS and full.peak_bytes <= FULL_SHARE * place.memory_bytes:
        return full, f"full: {job.work.rows} rows are more than {FULL_ROWS}, and all weights fit in {FULL_SHARE:.0%} of the memory"
    if lora.fits:
        return lora, f"lora: it fits, and {job.work.rows} rows do not need all weights (full tuning pays from {FULL_ROWS} rows)"
    if qlora.fits:
        return qlora, f"qlora: LoRA needs {lora.peak_bytes / GIB:.1f} GiB and does not fit; with the frozen weights in 4 bits it does"
    return qlora, "qlora: nothing fits, and this needs the least"


def _placements(job: Job, hyperparameters: Hyperparameters, inventory: "Inventory") -> Iterator[Placement]:
    """From the fastest to the one that needs least: large passes before small ones, all of them before recomputing activations."""
    batch = hyperparameters.effective_batch
    sizes = [size for size in range(batch, 0, -1) if batch % size == 0]
    if inventory.devices[0].kind == "cpu":
        sizes = [size for size in sizes if size * job.work.tokens_per_row <= CPU_TOKENS] or [1]
    for checkpointing in (False, True):
        for size in sizes:
            yield training_on(inventory, dtype=job.training.dtype, micro_batch=size, gradient_checkpointing=checkpointing)


def _peak_bytes(job: Job, technique: Technique, hyperparameters: Hyperparameters, placement: Placement) -> int:
    """At the longest batch: as many of the longest rows as go into one forward pass."""
    tokens = placement.micro_batch * min(job.work.longest_tokens, hyperparameters.max_length)
    return training_memory(
        job.model,
        technique,
        number_bytes=number_bytes(placement),
        tokens=tokens,
        labelled_tokens=int(tokens * job.work.labelled_share),
        checkpointing=placement.gradient_checkpointing,
        device=placement.device,
    ).total


def number_bytes(placement: Placement) -> int:
    """Of one weight in memory."""
    return 4 if placement.dtype == "float32" else 2


def _longest_that_fits(plan: Plan, job: Job, place: Place) -> int | None:
    longest = min(job.work.longest_tokens, plan.hyperparameters.max_length)
    for length in range(longest // 16 * 16, 15, -16):
        shorter = replace(job, training=job.training.model_copy(update={"max_length": length}))
        if option_of(shorter, plan.technique, place).fits:
            return length
    return None
