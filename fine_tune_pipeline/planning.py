"""`fine-tune-pipeline plan`: a rehearsal of the whole guide, with a forecast of what would be built."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg

from fine_tune_pipeline import defs
from fine_tune_pipeline.defs.resources import bound_resources
from fine_tune_pipeline.forecast import Forecast, facts, forecasts, table
from fine_tune_pipeline.guide.base_model.hardware import inventory_of_named
from fine_tune_pipeline.places import own_use_cases
from fine_tune_pipeline.rehearsal import Step, rehearse
from fine_tune_pipeline.resources.compute.base import Compute
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.spec.reading import InvalidUseCase, Problem, read_all
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.use_case import assets_of

OFFLINE = "HF_HUB_OFFLINE"


class SupposedCompute(Compute):
    """A place that one asks about without having it: nothing runs there."""

    device: str

    def run(self, context: dg.AssetExecutionContext, request: Any, result: Any) -> NoReturn:
        raise AssertionError("a rehearsal runs no program")

    def inventory(self) -> Inventory:
        return inventory_of_named(self.device)


@dataclass(frozen=True)
class Planned:
    """What a run of a use case would do at a place."""

    use_case: str
    place: str
    steps: Sequence[Step]
    forecasts: dict[str, Forecast]

    @property
    def stops(self) -> bool:
        """Whether the run would end early."""
        return any(step.does == "stop" for step in self.steps)

    def table(self) -> str:
        return f"{self.use_case} on {self.place}\n{table(self.steps, self.forecasts)}"

    def facts(self) -> list[dict[str, Any]]:
        return facts(self.steps, self.forecasts)


def planned(named: str, *, device: str | None = None) -> Planned:
    """The rehearsal of one use case.

    Args:
        named: its name, or its YAML file.
        device: a named device instead of the place that the environment names.

    Raises:
        InvalidUseCase: there is none of that name, or it has mistakes.
        UnknownDevice: the table has no such device.
    """
    spec = use_case_named(named)
    bound = dict(bound_resources().resources or {})
    if device is not None:
        bound["compute"] = SupposedCompute(device=device)
    compute: Compute = bound["compute"]
    inventory = compute.inventory()
    with _hub_left_alone():
        steps = rehearse(spec, assets_of(spec), bound)
        forecast = forecasts(spec, steps, bound["store"].open(), inventory, supposed=device is not None)
    devices = ", ".join(sorted({one.name for one in inventory.devices}))
    return Planned(spec.name, f"{inventory.place} ({devices})", steps, forecast)


@contextmanager
def _hub_left_alone() -> Iterator[None]:
    """A plan asks no other machine: the hub's client answers from its cache, or not at all."""
    before = os.environ.get(OFFLINE)
    os.environ[OFFLINE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[OFFLINE]
        else:
            os.environ[OFFLINE] = before


def use_case_named(named: str) -> UseCaseSpec:
    """The use case of that name, or of that YAML file.

    Raises:
        InvalidUseCase: there is none, or it has mistakes.
    """
    if named.endswith((".yaml", ".yml")):
        specs, problems = read_all([Path(named)])
        if problems:
            raise InvalidUseCase(problems)
        return specs[0]
    specs, problems = read_all([Path(defs.__file__).parent, *own_use_cases()])
    found = next((spec for spec in specs if spec.name == named), None)
    if found is None:
        there = ", ".join(spec.name for spec in specs) or "none"
        raise InvalidUseCase([*problems, Problem("use case", 1, "", f"got {named!r}, want one of {there}, or a YAML file")])
    return found
