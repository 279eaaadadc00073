"""The plan: all techniques side by side on the hardware at hand, and the choice."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import Field

from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.chosen import own_technique, with_tokens
from fine_tune_pipeline.guide.base_model.duration import kilowatt_hours
from fine_tune_pipeline.guide.base_model.hardware import speed
from fine_tune_pipeline.guide.base_model.memory import GIB, trainable_parameters, training_memory
from fine_tune_pipeline.guide.base_model.price import cost, price_of
from fine_tune_pipeline.guide.technique.correction import Correction, Kind
from fine_tune_pipeline.guide.technique.placement import training_on
from fine_tune_pipeline.guide.technique.recipes import Recipe
from fine_tune_pipeline.guide.technique.rules import Resolved, resolve, techniques
from fine_tune_pipeline.guide.technique.run_time import before_seconds, loop_seconds
from fine_tune_pipeline.guide.technique.together import refusal, rows_of_one, speedup
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.requests import Contract, Hyperparameters, Parallel, Placement, Technique
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.spec.base import unset
from fine_tune_pipeline.spec.environment import DevicePrice
from fine_tune_pipeline.spec.technique import Auto, TechniqueSpec
from fine_tune_pipeline.spec.training import TrainingSpec

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
    peak_bytes_without_recompute: int = Field(description="Of the smallest pass.")
    seconds: float
    before_seconds: float = Field(default=0.0, description="Of these, before the training loop: range test, the untrained model's answers.")
    tokens_per_second: float
    kilowatt_hours: float | None
    cost: float | None
    currency: str | None
    fits: bool
    refused: str | None = Field(default=None, description="Why the processes of the place cannot train so together.", exclude_if=unset)

    @property
    def loop_seconds(self) -> float:
        """Of the training loop alone."""
        return self.seconds - self.before_seconds

    def row(self) -> dict[str, object]:
        """As a table shows it."""
        return {
            "technique": self.technique.label,
            "trained parameters": self.trainable_parameters,
            "predicted GiB": round(self.peak_bytes / GIB, 2),
            "predicted minutes": round(self.seconds / 60, 1),
            "predicted tokens/s": round(self.tokens_per_second),
            "predicted kWh": None if self.kilowatt_hours is None else round(self.kilowatt_hours, 2),
            "predicted cost": None if self.cost is None else f"{self.cost:.2f} {self.currency}",
            "rows per pass": self.placement.micro_batch,
            "recompute": self.placement.gradient_checkpointing,
            "learning rate": self.hyperparameters.learning_rate,
            "fits": self.fits if self.refused is None else f"no: {self.refused}",
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
    processes: int = Field(default=1, description="That train together.", exclude_if=lambda count: count == 1)
    parallel: Parallel = Field(default="ddp", description="How they share the model.", exclude_if=lambda how: how == "ddp")
    recipe: Recipe | None = Field(default=None, description="Which training rows are learned from; None: all.", exclude_if=unset)

    @property
    def parts(self) -> int:
        """Into which the model is cut."""
        return self.processes if self.parallel == "fsdp2" else 1

    @property
    def trained_on(self) -> int:
        """Devices: all processes on a CPU share this one."""
        return 1 if self.placement.device == "cpu" else self.processes

    @property
    def chosen(self) -> Option:
        return next(option for option in self.options if option.technique == self.technique)


@dataclass(frozen=True)
class Place:
    """The hardware as the plan sees it. `memory_bytes` is what one process may use, head-room taken off; `corrections` come from
    earlier runs here, `price` from the use case."""

    inventory: Inventory
    memory_bytes: int
    corrections: Mapping[Kind, Correction] = field(default_factory=dict)
    price: DevicePrice | None = None

    @classmethod
    def of(
        cls,
        inventory: Inventory,
        *,
        headroom: float,
        corrections: Mapping[Kind, Correction] | None = None,
        prices: Sequence[DevicePrice] = (),
    ) -> "Place":
        usable = int(inventory.bytes_of_one * (1 - headroom))
        price = price_of(inventory.devices[0], prices)
        return cls(inventory=inventory, memory_bytes=usable, corrections=corrections or {}, price=price)

    def correction(self, technique: Technique, hyperparameters: Hyperparameters, placement: Placement) -> Correction:
        """What earlier runs of this kind say; of another kind the text in tokens at least."""
        own = self.corrections.get(Kind(technique.label, placement.dtype, hyperparameters.method))
        if own is not None:
            return own
        return Correction(tokens=next((other.tokens for other in self.corrections.values()), 1.0))


@dataclass(frozen=True)
class Job:
    """What is to be trained: the model, the text, and what the user asked for."""

    model: Architecture
    context: int
    work: Workload
    technique: TechniqueSpec
    training: TrainingSpec
    added_tokens: tuple[int, ...] = ()


def make_plan(job: Job, place: Place) -> tuple[Plan, Resolved]:
    """All options on this hardware, and the chosen one with its hyper-parameters and the rules that gave them."""
    offered = [with_tokens(technique, job.added_tokens) for technique in techniques(job.technique, job.model, job.work)]
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
        processes=place.inventory.processes,
        parallel=place.inventory.parallel,
    )
    return plan, resolve(job.training, chosen.technique, job.model, job.work, context=job.context)


def option_of(job: Job, technique: Technique, place: Place) -> Option:
    """One technique with the largest forward pass that fits; recomputing activations only when it does not fit without."""
    hyperparameters = resolve(job.training, technique, job.model, job.work, context=job.context).hyperparameters
    placements = list(_placements(job, hyperparameters, place.inventory))
    peaks = [peak_bytes(job, technique, hyperparameters, placement, place) for placement in placements]
    fitting = [number for number, peak in enumerate(peaks) if peak <= place.memory_bytes]
    taken = fitting[0] if fitting else len(placements) - 1
    placement = placements[taken]
    took = _duration(job, technique, hyperparameters, placement, place)
    seconds = took.loop + took.before
    devices = place.inventory.trained_on
    spent = cost(seconds, place.price, devices=devices)
    refused = refusal(technique, hyperparameters, place.inventory)
    return Option(
        technique=technique,
        hyperparameters=hyperparameters,
        placement=placement,
        trainable_parameters=trainable_parameters(job.model, technique),
        peak_bytes=peaks[taken],
        peak_bytes_without_recompute=peaks[len(peaks) // 2 - 1],
        seconds=seconds,
        before_seconds=took.before,
        tokens_per_second=took.tokens / took.loop,
        kilowatt_hours=kilowatt_hours(devices * seconds, at=speed(place.inventory)),
        cost=spent.amount if spent else None,
        currency=spent.currency if spent else None,
        fits=bool(fitting) and refused is None,
        refused=refused,
    )


class _Duration(NamedTuple):
    """Seconds of the training loop and before it, and the loop's tokens."""

    loop: float
    before: float
    tokens: float


def _duration(job: Job, technique: Technique, hyperparameters: Hyperparameters, placement: Placement, place: Place) -> _Duration:
    corrected = place.correction(technique, hyperparameters, placement)
    work, at, epochs = corrected.work(job.work), speed(place.inventory), hyperparameters.epochs
    loop = loop_seconds(
        job.model,
        technique,
        work.passed(rows=placement.micro_batch),
        hyperparameters=hyperparameters,
        epochs=epochs,
        at=at,
        checkpointing=placement.gradient_checkpointing,
    )
    before = before_seconds(
        job.model, technique, work, hyperparameters=hyperparameters, micro_batch=placement.micro_batch, loop=loop, at=at
    )
    share = corrected.seconds / speedup(hyperparameters.effective_batch, place.inventory.trained_on)
    return _Duration(share * loop, share * before, epochs * work.tokens)


def _choice(job: Job, options: Sequence[Option], place: Place) -> tuple[Option, str]:
    named = {option.technique.label: option for option in options}
    if not isinstance(job.technique, Auto):
        own = own_technique(job.technique, job.model)
        label = own.label if own else job.technique.type
        return named[label], f"{label}: as the use case says"
    full, lora, qlora = named["full"], named["lora"], named["qlora"]
    if lora.refused:
        return lora, f"lora: {lora.refused}"
    if job.work.rows > FULL_ROWS and full.peak_bytes <= FULL_SHARE * place.memory_bytes:
        return full, f"full: {job.work.rows} rows are more than {FULL_ROWS}, and all weights fit in {FULL_SHARE:.0%} of the memory"
    if lora.fits:
        return lora, f"lora: it fits, and {job.work.rows} rows do not need all weights (full tuning pays from {FULL_ROWS} rows)"
    if qlora.refused:
        return lora, f"lora: nothing fits, and all weights need more; {qlora.refused}"
    if qlora.fits:
        return qlora, f"qlora: LoRA needs {lora.peak_bytes / GIB:.1f} GiB and does not fit; with the frozen weights in 4 bits it does"
    return qlora, "qlora: nothing fits, and this needs the least"


def _placements(job: Job, hyperparameters: Hyperparameters, inventory: Inventory) -> Iterator[Placement]:
    """From the fastest to the one that needs least: large passes before small ones, all of them before recomputing activations."""
    batch = rows_of_one(hyperparameters.effective_batch, inventory.processes)
    sizes = [size for size in range(batch, 0, -1) if batch % size == 0]
    if inventory.devices[0].kind == "cpu":
        sizes = [size for size in sizes if size * job.work.tokens_per_row <= CPU_TOKENS] or [1]
    for checkpointing in (False, True):
        for size in sizes:
            yield training_on(
                inventory,
                dtype=job.training.dtype,
                micro_batch=size,
                gradient_checkpointing=checkpointing,
                compile=job.training.compile,
            )


def peak_bytes(job: Job, technique: Technique, hyperparameters: Hyperparameters, placement: Placement, place: Place) -> int:
    """At the longest batch: as many of the longest rows as go into one forward pass."""
    corrected = place.correction(technique, hyperparameters, placement)
    work = corrected.work(job.work)
    tokens = placement.micro_batch * hyperparameters.sequences * min(work.longest_tokens, hyperparameters.max_length)
    predicted = training_memory(
        job.model,
        technique,
        number_bytes=number_bytes(placement),
        tokens=tokens,
        labelled_tokens=int(tokens * job.work.labelled_share),
        checkpointing=placement.gradient_checkpointing,
        device=placement.device,
        parts=place.inventory.parts,
    )
    return corrected.bytes(predicted)


def number_bytes(placement: Placement) -> int:
    """Of one weight in memory."""
    return 4 if placement.dtype == "float32" else 2
