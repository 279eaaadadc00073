"""What the assets are given: bound from the environment, so that no use case names a place."""

import os

import dagster as dg

from fine_tune_pipeline.places import places
from fine_tune_pipeline.resources.compute.base import Compute
from fine_tune_pipeline.resources.compute.local import LocalCompute
from fine_tune_pipeline.resources.personal_data_key import PersonalDataKey
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking

KINDS: dict[str, type[Compute]] = {"local": LocalCompute}


class UnknownCompute(Exception):
    """FINE_TUNE_PIPELINE_COMPUTE names no kind of place."""


def compute() -> Compute:
    """Where FINE_TUNE_PIPELINE_COMPUTE says that programs run; this machine by default."""
    name = os.environ.get("FINE_TUNE_PIPELINE_COMPUTE", "local")
    if name not in KINDS:
        raise UnknownCompute(f"FINE_TUNE_PIPELINE_COMPUTE: got {name!r}, want one of {', '.join(KINDS)}")
    return KINDS[name]()


@dg.definitions
def resources() -> dg.Definitions:
    """`store`, `compute`, `tracking`, `personal_data_key` and `serving`."""
    at = places()
    return dg.Definitions(
        resources={
            "store": ArtifactStore(url=at.store, reviews=str(at.reviews)),
            "compute": compute(),
            "tracking": ExperimentTracking(uri=at.mlflow, artifacts=at.mlflow_artifacts),
            "personal_data_key": PersonalDataKey(),
            "serving": Serving(folder=str(at.serving)),
        }
    )
