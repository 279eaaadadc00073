"""MLflow as a resource: where runs and models are kept. Credentials come from MLflow's own environment variables."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field

from fine_tune_pipeline.programs.access import known_experiment
from fine_tune_pipeline.programs.requests import Tracking


class ExperimentTracking(dg.ConfigurableResource):
    """The MLflow server or database that training logs to and models are registered in."""

    uri: str = Field(description="MLflow tracking and registry URI: sqlite:///…, http://…")
    artifacts: str | None = Field(default=None, description="Where artifacts of a database-backed store lie; a server decides by itself.")
    downloads: str | None = Field(default=None, description="Folder of models that were fetched from there; a temporary one by default.")

    @property
    def download_folder(self) -> Path:
        return Path(self.downloads) if self.downloads else Path(tempfile.gettempdir()) / "fine_tune_pipeline_downloads"

    def tracking(self, *, use_case: str, run_name: str, tags: dict[str, str]) -> Tracking:
        """What a program needs to log one run; the experiment is named like the use case and made if it is not there."""
        return Tracking(uri=self.uri, experiment=self.experiment(use_case), run_name=run_name, tags=tags)

    def trial(self, *, use_case: str) -> Tracking:
        """As `tracking`, for a program that only tries whether it may write: nothing is asked or made here."""
        return Tracking(uri=self.uri, experiment=use_case, run_name="preflight")

    def experiment(self, use_case: str) -> str:
        """The name of the use case's experiment, made if it is not there.

        A database-backed one is told where its artifacts lie, else they land in the working folder.

        Raises:
            TrackingSilent: the server does not answer.
        """
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        if known_experiment(client, use_case) is None:
            location = None if self.artifacts is None else f"{self.artifacts}/{use_case}"
            client.create_experiment(use_case, artifact_location=location)
        return use_case

    def add_numbers(self, run_id: str | None, numbers: Mapping[str, float]) -> None:
        """What is known of a run only after it has ended; nothing where it was not tracked."""
        if run_id is None:
            return
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        for name, value in numbers.items():
            client.log_metric(run_id, name, value)


@contextmanager
def mlflow_at(uri: str) -> Iterator[None]:
    """MLflow's functions that take no address ask this one meanwhile; what was set before is set again."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
