"""What works on the rows of step 3: processes of this machine, or Ray Data on a cluster. Never part of a use case."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import Field
from tqdm import tqdm

from fine_tune_pipeline.artifacts.parts import PART_ROWS, Gathered, Part, cut, gathered, missing
from fine_tune_pipeline.programs.named_work import do_part
from fine_tune_pipeline.programs.parts_requests import PartsRequest, PartsResult
from fine_tune_pipeline.resources.compute.base import Compute

HERE_PARTS = 1
"""So many parts are worked on in the run itself: starting a program would take longer."""


class DataEngine(dg.ConfigurableResource):
    """Runs one function of the package over all parts of a file of examples."""

    engine: Literal["local", "ray"] = "local"
    workers: int | None = Field(default=None, ge=1, description="Processes of the local engine; as many as there are cores by default.")
    address: str | None = Field(default=None, description="Of a Ray cluster whose nodes share the folders; None starts one here.")
    part_rows: int = Field(default=PART_ROWS, ge=1, description="Rows that are read, worked on and written at a time.")

    def work(
        self,
        context: dg.AssetExecutionContext,
        compute: Compute,
        function: str,
        *,
        settings: Mapping[str, Any],
        source: Path,
        folder: Path,
    ) -> Gathered:
        """Work on all parts of `source`; those that an earlier, broken run has done are not done again.

        Args:
            function: `module:name` of what makes the work from the settings.
            settings: plain JSON, and no secret: they are written to a file.
            folder: of this work alone, kept until it is done.
        """
        parts = cut(source, rows=self.part_rows)
        waiting = missing(parts, folder)
        if self.engine == "local" and len(parts) <= HERE_PARTS:
            self._here(waiting, function=function, settings=settings, folder=folder)
        elif waiting:
            folder.mkdir(parents=True, exist_ok=True)
            request = PartsRequest(
                output=str(folder), function=function, settings=dict(settings), source=str(source), folder=str(folder), engine=self.engine,
                workers=self.workers or compute.inventory().cpu_cores, address=self.address, part_rows=self.part_rows,
            )  # fmt: skip
            result = compute.run(context, request, PartsResult)
            context.log.info(f"{result.parts} parts, {result.resumed} of them done by an earlier run, in {result.seconds:.0f} s")
        return gathered(parts, folder)

    def _here(self, parts: list[Part], *, function: str, settings: Mapping[str, Any], folder: Path) -> None:
        for part in tqdm(parts, desc=function.rsplit(":", 1)[-1], unit="part", disable=None):
            do_part(part, function=function, settings=json.dumps(dict(settings), sort_keys=True), folder=str(folder))
