"""What the assets are given: bound from the environment, so that no use case names a place."""

import os

import dagster as dg

from fine_tune_pipeline.places import SERVING_URL_VARIABLE, places
from fine_tune_pipeline.resources.compute.choice import chosen_compute
from fine_tune_pipeline.resources.data_engine import DataEngine
from fine_tune_pipeline.resources.personal_data_key import PersonalDataKey
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking


class UnknownDataEngine(Exception):
    """FINE_TUNE_PIPELINE_DATA_ENGINE names none, or FINE_TUNE_PIPELINE_DATA_WORKERS no number."""


def data_engine() -> DataEngine:
    """What FINE_TUNE_PIPELINE_DATA_ENGINE names, with FINE_TUNE_PIPELINE_DATA_WORKERS processes; RAY_ADDRESS is Ray's own variable."""
    name, workers = os.environ.get("FINE_TUNE_PIPELINE_DATA_ENGINE", "local"), os.environ.get("FINE_TUNE_PIPELINE_DATA_WORKERS", "")
    if name not in ("local", "ray"):
        raise UnknownDataEngine(f"FINE_TUNE_PIPELINE_DATA_ENGINE: got {name!r}, want local or ray")
    if workers and not (workers.isdigit() and int(workers)):
        raise UnknownDataEngine(f"FINE_TUNE_PIPELINE_DATA_WORKERS: got {workers!r}, want a number of processes, such as 2")
    return DataEngine(engine="ray" if name == "ray" else "local", workers=int(workers) if workers else None)


@dg.definitions
def resources() -> dg.Definitions:
    """What the code location binds."""
    return bound_resources()


def bound_resources() -> dg.Definitions:
    """`store`, `compute`, `data_engine`, `tracking`, `personal_data_key` and `serving`."""
    at = places()
    return dg.Definitions(
        resources={
            "store": ArtifactStore(url=at.store, reviews=str(at.reviews)),
            "compute": chosen_compute(os.environ),
            "data_engine": data_engine(),
            "tracking": ExperimentTracking(uri=at.mlflow, artifacts=at.mlflow_artifacts, downloads=str(at.downloads)),
            "personal_data_key": PersonalDataKey(),
            "serving": Serving(
                folder=str(at.serving),
                host=os.environ.get("FINE_TUNE_PIPELINE_SERVING_HOST", "127.0.0.1"),
                url=os.environ.get(SERVING_URL_VARIABLE, ""),
            ),
        }
    )
