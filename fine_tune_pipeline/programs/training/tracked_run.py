"""A training as a run of MLflow: parameters, every step, the curve and the adapter. Ended whatever happens."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import BaseModel

from fine_tune_pipeline.programs.access import known_experiment
from fine_tune_pipeline.programs.requests import Tracking

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

FLUSH_SECONDS = 2.0
"""Steps are sent together this often: one request each would cost as much as a short step."""

LARGEST_BATCH = 900
"""MLflow takes at most 1,000 numbers a request."""


class TrackedRun:
    """An open run. Numbers are kept for up to two seconds before they are sent."""

    def __init__(self, client: "MlflowClient", run_id: str, *, reopened: bool = False) -> None:
        self.run_id = run_id
        self.reopened = reopened
        self._client = client
        self._waiting: list[Metric] = []
        self._sent = time.monotonic()

    def parameters(self, **documents: BaseModel) -> None:
        """Every field of the documents, as `document.field`."""
        for name, document in documents.items():
            for field, value in document.model_dump(mode="json").items():
                self._client.log_param(self.run_id, f"{name}.{field}", value)

    def parameter(self, name: str, value: object) -> None:
        """One value; written again it must be the same."""
        self._client.log_param(self.run_id, name, value)

    def numbers(self, step: int, numbers: dict[str, float]) -> None:
        """Measured after `step`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in numbers.items()]
        if time.monotonic() - self._sent > FLUSH_SECONDS or len(self._waiting) > LARGEST_BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        waiting, self._waiting = self._waiting, []
        self._sent = time.monotonic()
        for first in range(0, len(waiting), LARGEST_BATCH):
            self._client.log_batch(self.run_id, metrics=waiting[first : first + LARGEST_BATCH])

    def keep(self, path: str, *, folder: str | None = None) -> None:
        """Store a file, or a folder's content under the name `folder`."""
        if folder is None:
            self._client.log_artifact(self.run_id, path)
        else:
            self._client.log_artifacts(self.run_id, path, folder)


@contextmanager
def tracked_run(tracking: Tracking | None, *, earlier: str | None = None) -> Iterator[TrackedRun | None]:
    """A new run, ended FINISHED; FAILED after an error, KILLED after a signal. None without tracking.

    Args:
        earlier: id of the run of a try that was broken off: it is opened again, if it is still there.

    Raises:
        TrackingSilent: the server does not answer when the run begins.
    """
    if tracking is None:
        yield None
        return
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=tracking.uri)
    found = known_experiment(client, tracking.experiment)
    experiment = client.create_experiment(tracking.experiment) if found is None else found.experiment_id
    reopened = _reopened(client, earlier)
    run_id = reopened or client.create_run(experiment, tags=tracking.tags, run_name=tracking.run_name).info.run_id
    run = TrackedRun(client, run_id, reopened=reopened is not None)
    status = "KILLED"
    try:
        try:
            yield run
        finally:
            # After an error too: its last steps are what one wants to see.
            run.flush()
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        client.set_terminated(run.run_id, status)


def _reopened(client: "MlflowClient", run_id: str | None) -> str | None:
    """None when there is no such run any more: somebody has deleted it, or tracks elsewhere by now."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    if run_id is None:
        return None
    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return None
    return run_id
