"""A code location whose only asset runs the stubborn program; what it does is taken from the environment."""

import os
from pathlib import Path

import dagster as dg

from fine_tune_pipeline.resources.compute.base import GPU_POOL, Compute
from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline_tests.resources.stubborn import StubbornRequest, StubbornResult


@dg.asset(pool=GPU_POOL)
def stubborn(context: dg.AssetExecutionContext, compute: Compute, store: ArtifactStore) -> dg.MaterializeResult:
    """An asset that holds the GPU while its program runs."""
    request = StubbornRequest(output=os.environ["STUBBORN_OUTPUT"], do=os.environ["STUBBORN_DO"])
    return dg.MaterializeResult(metadata={"said": compute.run(context, request, StubbornResult).said})


@dg.asset(pool=GPU_POOL)
def another(context: dg.AssetExecutionContext, compute: Compute, store: ArtifactStore) -> dg.MaterializeResult:
    """An asset of another use case that needs the GPU too."""
    request = StubbornRequest(output=os.environ["STUBBORN_OUTPUT"], do=os.environ["STUBBORN_DO"])
    return dg.MaterializeResult(metadata={"said": compute.run(context, request, StubbornResult).said})


def definitions(folder: Path) -> dg.Definitions:
    resources = {
        "compute": PlacedCompute(place=Local(grace_seconds=1)),
        "store": ArtifactStore(url=str(folder / "store"), reviews=str(folder / "reviews")),
    }
    return dg.Definitions(assets=[stubborn, another], resources=resources, executor=dg.in_process_executor)


defs = definitions(Path(os.environ.get("STUBBORN_OUTPUT", ".")))
