"""What runs have measured corrects the next prediction: peak, speed and tokens, by place and kind of training.

Observations are plain files beside the artifacts and part of no fingerprint. A plan writes the factors that it used into its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.duration import Tokens
from fine_tune_pipeline.guide.base_model.hardware import speed
from fine_tune_pipeline.guide.base_model.memory import FIXED_BYTES, training_memory
from fine_tune_pipeline.guide.technique.correction import Correction, Kind
from fine_tune_pipeline.guide.technique.plan import Plan, number_bytes
from fine_tune_pipeline.guide.technique.run_time import loop_seconds
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.requests import Contract, TrainResult
from fine_tune_pipeline.resources.compute.inventory import Inventory

NOTES = "calibration"
"""Folder of the observations of a use case."""

LAST = 5
"""Observations of one kind that count: machines and libraries change."""

FIXED_AT_MOST = 256 << 20
"""Of what a run took beyond the prediction, so much is laid to what no model or text changes: libraries loaded late, buffers of threads."""


class Observation(Contract):
    """One training, predicted without any correction for what it really had to do, and measured."""

    place: str
    device: str
    technique: str
    dtype: str
    family: str
    model: str
    made_at: str
    method: str = "supervised"
    proportional_bytes: int
    fixed_bytes: int
    peak_bytes: int
    predicted_seconds: float
    seconds: float
    likely_tokens: float
    tokens: int

    @property
    def kind(self) -> Kind:
        return Kind(self.technique, self.dtype, self.method)

    @property
    def more_fixed_bytes(self) -> int:
        """Taken beyond the prediction, up to `FIXED_AT_MOST`."""
        return min(max(0, self.peak_bytes - self.fixed_bytes - self.proportional_bytes), FIXED_AT_MOST)

    @property
    def memory(self) -> float:
        """The rest, as a share of what was predicted."""
        return (self.peak_bytes - self.fixed_bytes - self.more_fixed_bytes) / self.proportional_bytes


@dataclass(frozen=True)
class Run:
    """A finished training: what was planned, on which model and text, where, and what came of it."""

    plan: Plan
    model: Architecture
    model_id: str
    work: Workload
    inventory: Inventory
    result: TrainResult


def observed(run: Run, *, made_at: str) -> Observation:
    """What this run teaches: the formulas are asked again for the tokens that were really seen."""
    plan, result, device = run.plan, run.result, run.inventory.devices[0]
    checkpointing = plan.placement.gradient_checkpointing
    memory = training_memory(
        run.model,
        plan.technique,
        number_bytes=number_bytes(plan.placement),
        tokens=result.most_tokens,
        labelled_tokens=result.most_labelled,
        checkpointing=checkpointing,
        device=plan.placement.device,
    )
    # Of compared answers, a row is more than one sequence.
    rows = result.passes_rows / plan.hyperparameters.sequences
    seen = Tokens(all=result.tokens, labelled=result.labelled_tokens, per_row=result.tokens / result.passes_rows, passes=result.passes)
    return Observation(
        place=run.inventory.place,
        device=device.name,
        technique=plan.technique.label,
        dtype=plan.placement.dtype,
        family=run.model.family,
        model=run.model_id,
        made_at=made_at,
        method=plan.hyperparameters.method,
        proportional_bytes=memory.proportional,
        fixed_bytes=result.fixed_memory_bytes,
        peak_bytes=result.peak_memory_bytes,
        predicted_seconds=loop_seconds(
            run.model,
            plan.technique,
            seen,
            hyperparameters=plan.hyperparameters,
            epochs=1,
            at=speed(run.inventory),
            checkpointing=checkpointing,
        ),
        seconds=result.seconds,
        likely_tokens=run.work.tokens * rows / run.work.rows,
        tokens=result.tokens,
    )


def correction(observations: Iterable[Observation], *, inventory: Inventory, family: str, model: str) -> dict[Kind, Correction]:
    """Factors by kind of training, from what this place has seen of this family; no entry where it has seen nothing.

    Memory beside model and text is that of the place, whatever was trained there.
    """
    device = inventory.devices[0]
    here = [seen for seen in observations if (seen.place, seen.device) == (inventory.place, device.name)]
    here.sort(key=lambda seen: seen.made_at)
    kinds = {seen.kind for seen in here if seen.family == family}
    return {kind: _factors(here, kind, family=family, model=model, on_cpu=device.kind == "cpu") for kind in sorted(kinds)}


def errors(run: Run) -> dict[str, float]:
    """Measured over planned, less one: 0.1 means that the run took a tenth more than the plan said."""
    # What an accelerator's context takes is not in its own count.
    outside = 0 if run.plan.placement.device == "cpu" else FIXED_BYTES["cuda"]
    return {
        "peak_error": (run.result.peak_memory_bytes + outside) / run.plan.predicted_peak_bytes - 1,
        "time_error": run.result.seconds / run.plan.chosen.loop_seconds - 1,
    }


def as_content(corrections: Mapping[Kind, Correction]) -> dict[str, Any]:
    """For the fingerprint of a plan."""
    return {" ".join(kind): vars(factors) for kind, factors in corrections.items()}


def from_content(content: Mapping[str, Any]) -> dict[Kind, Correction]:
    """Back from the payload of a plan."""
    return {Kind(*name.rsplit(" ", 2)): Correction(**factors) for name, factors in content.items()}


def _factors(here: Sequence[Observation], kind: Kind, *, family: str, model: str, on_cpu: bool) -> Correction:
    like = [seen for seen in here if seen.kind == kind and seen.family == family][-LAST:]
    texts = [seen for seen in here if seen.model == model][-LAST:]
    return Correction(
        runs=len(like),
        memory=median(seen.memory for seen in like),
        seconds=median(seen.seconds / seen.predicted_seconds for seen in like),
        tokens=median(seen.tokens / seen.likely_tokens for seen in texts) if texts else 1.0,
        fixed_bytes=int(median(seen.fixed_bytes + seen.more_fixed_bytes for seen in like)) if on_cpu else None,
    )
