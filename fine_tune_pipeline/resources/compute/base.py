"""Where programs run. Assets annotate `Compute`; `local`, `docker`, `kubernetes`, `ray` are places with the same outline."""

from abc import ABC, abstractmethod
from typing import TypeVar

import dagster as dg

from fine_tune_pipeline.programs.requests import Contract, Request
from fine_tune_pipeline.resources.compute.inventory import Inventory

ResultT = TypeVar("ResultT", bound=Contract)

GPU_POOL = "gpu"
"""Dagster pool of assets that hold the accelerator (or, on a laptop, all cores) while they run."""


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

    def refused(self, at_once: int) -> str:
        """Why the place cannot run so many tasks of one program at the same time, and what to do; empty if it can."""
        return "tasks of one program run one after another here; choose a Ray cluster (docs/compute_ray.md)"
