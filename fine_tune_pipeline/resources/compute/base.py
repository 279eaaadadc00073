"""Where programs run. Assets annotate `Compute`; `local`, `docker`, `kubernetes`, `ray` are places with the same outline."""

from abc import ABC, abstractmethod
from typing import TypeVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from fine_tune_pipeline.programs.requests import Contract, Request

ResultT = TypeVar("ResultT", bound=Contract)

GPU_POOL = "gpu"
"""Dagster pool of assets that hold the accelerator (or, on a laptop, all cores) while they run."""


class Device(BaseModel):
    """One accelerator, or the CPU."""

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    memory_bytes: int
    bfloat16: bool = Field(description="Has units of its own for products in bfloat16; without, they are slower than float32.")


class Inventory(BaseModel):
    """What a place has: steps 4 and 5 plan with it."""

    model_config = ConfigDict(frozen=True)

    place: str
    devices: tuple[Device, ...]
    cpu_cores: int
    memory_bytes: int


class Compute(dg.ConfigurableResource, ABC):
    """Runs a program of `fine_tune_pipeline.programs` somewhere, and reports back."""

    @abstractmethod
    def run(self, context: dg.AssetExecutionContext, request: Request, result: type[ResultT]) -> ResultT:
        """Run `request.module` to its end and read its answer from `request.output`.

        Live numbers become observations of the asset while it runs. When this returns, raises or is interrupted, nothing of the
        program is running any more.

        Raises:
            dagster.Failure: the program ended with an error; it holds the tail of its output and what to do.
        """

    @abstractmethod
    def inventory(self) -> Inventory:
        """Devices and memory of the place, cheaply and without torch."""
