"""Where everything runs and lies: bound from the environment, so that no use case names a place."""

import os
from pathlib import Path

import dagster as dg

from fine_tune_pipeline.resources.compute.base import Compute
from fine_tune_pipeline.resources.compute.local import LocalCompute
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking

PLACES: dict[str, type[Compute]] = {"local": LocalCompute}


class UnknownPlace(Exception):
    """FINE_TUNE_PIPELINE_COMPUTE names no place."""


def home() -> Path:
    """Folder of everything that the pipeline keeps, unless a variable of its own says otherwise."""
    return Path(os.environ.get("FINE_TUNE_PIPELINE_HOME", ".fine_tune_pipeline")).absolute()


def compute() -> Compute:
    """The place that FINE_TUNE_PIPELINE_COMPUTE names; this machine by default."""
    name = os.environ.get("FINE_TUNE_PIPELINE_COMPUTE", "local")
    if name not in PLACES:
        raise UnknownPlace(f"FINE_TUNE_PIPELINE_COMPUTE: got {name!r}, want one of {', '.join(PLACES)}")
    return PLACES[name]()


@dg.definitions
def resources() -> dg.Definitions:
    """`store`, `compute`, `tracking` and `serving`."""
    return dg.Definitions(
        resources={
            "store": ArtifactStore(url=os.environ.get("FINE_TUNE_PIPELINE_STORE", str(home() / "store")), reviews=str(home() / "reviews")),
            "compute": compute(),
            "tracking": ExperimentTracking(
                uri=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{home()}/mlflow.db"), artifacts=str(home() / "mlflow-artifacts")
            ),
            "serving": Serving(folder=str(home() / "serving")),
        }
    )
