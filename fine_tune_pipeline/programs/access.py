"""Whether a program may write where it will have to: its output folder in the store, and MLflow. What is tried leaves nothing behind."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from fine_tune_pipeline.programs.requests import Tracking

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

PROBE_BYTES = 1 << 20
"""Written to the output folder: more than the answer of any program without weights."""

PROBE_TAG = "fine_tune_pipeline.preflight"

_QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "6",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}
"""By default MLflow asks a dead server for minutes; so 2 s where connections are refused, 20 s where nothing comes back."""


class OutputNotWritable(OSError):
    """The output folder does not take a file: no permission, a read-only mount, no room."""


class TrackingSilent(ConnectionError):
    """MLflow's server does not answer at the begin of a run."""


def known_experiment(client: "MlflowClient", name: str) -> "Experiment | None":
    """The first question to MLflow, so that a server that is not there is told soon; later ones are asked again for as long as MLflow does.

    Raises:
        TrackingSilent: names the address, the cause, and what to do.
    """
    from mlflow.exceptions import MlflowException, RestException

    try:
        with _environment(_QUICK):
            return client.get_experiment_by_name(name)
    except RestException:
        # It has answered: a refusal says by itself what is wrong.
        raise
    except MlflowException as error:
        if not client.tracking_uri.startswith(("http://", "https://")):
            raise
        raise TrackingSilent(
            f"MLflow at {client.tracking_uri} does not answer ({str(error).splitlines()[0][:300]}); start its server, let this machine "
            "reach it, or correct MLFLOW_TRACKING_URI"
        ) from error


@contextmanager
def impatient() -> Iterator[None]:
    """MLflow gives up within seconds meanwhile; what the user has set stays."""
    with _environment(_QUICK):
        yield


def try_output(folder: str | Path) -> None:
    """Write a file and take it away again.

    Raises:
        OutputNotWritable: names the folder, the cause, and what to do.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".preflight-") as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputNotWritable(
            f"{folder}: a file of 1 MiB cannot be written there ({error.strerror or error}); "
            f"make room, let user id {os.getuid()} write there, or put the store elsewhere"
        ) from error


def tracking_problem(tracking: Tracking, *, artifacts: str | None) -> str | None:
    """Write a tag to the experiment and a file to where its files go, and take both away again; what went wrong, if anything.

    No run is made: MLflow keeps deleted runs. An experiment that is not there yet is made by the training; another is tagged then.

    Args:
        artifacts: where files of a new experiment go; None if the server decides.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    with _environment(_QUICK):
        try:
            client = MlflowClient(tracking_uri=tracking.uri)
            found = client.get_experiment_by_name(tracking.experiment)
            known = [found] if found is not None else client.search_experiments(max_results=1)
            mark = f"{PROBE_TAG}-{uuid4().hex[:8]}"
            for experiment in known:
                client.set_experiment_tag(experiment.experiment_id, mark, "write access")
                client.delete_experiment_tag(experiment.experiment_id, mark)
            if place := found.artifact_location if found is not None else artifacts and f"{artifacts}/{tracking.experiment}":
                _try_artifacts(place, tracking_uri=tracking.uri, mark=mark)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            said = str(error).splitlines()[0][:300]
            return (
                f"MLflow at {tracking.uri} does not take what a training writes ({type(error).__name__}: {said}); start it, let this "
                "machine reach it, correct MLFLOW_TRACKING_URI, or give its credentials in the environment"
            )
    return None


def _try_artifacts(place: str, *, tracking_uri: str, mark: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    local = None if "://" in place else Path(place)
    made = [] if local is None else [path for path in (local, *local.parents) if not path.exists()]
    repository = get_artifact_repository(f"{place}/{mark}", tracking_uri=tracking_uri)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "write_access.txt"
            file.write_text("may be deleted", encoding="utf-8")
            repository.log_artifact(str(file))
    finally:
        repository.delete_artifacts()
        for path in made:
            if path.exists():
                path.rmdir()


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Variables that hold for a while; those that the user has set stay."""
    added = {name: value for name, value in changes.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
