"""The MLflow model registry of one use case: versions are registered once, aliases say which is which. No `@` in aliases."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.programs.access import impatient
from fine_tune_pipeline.programs.serving.contract import Alias
from fine_tune_pipeline.programs.serving.registry_aliases import shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

FINGERPRINT = "fingerprint"
ADAPTER_SHA256 = "adapter_sha256"


class RegistryDown(Exception):
    """The model registry does not answer, so nobody may say who is champion."""


@contextmanager
def registry_answers(uri: str) -> Iterator[None]:
    """Within the block MLflow gives up on a dead registry within seconds.

    Raises:
        RegistryDown: names the address, the cause, and what to do.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with impatient():
            yield
    except (MlflowException, SQLAlchemyError) as error:
        said = str(error).replace(uri.rstrip("/"), shown(uri)).splitlines()[0][:300]
        raise RegistryDown(
            f"the model registry at {shown(uri)} does not answer ({type(error).__name__}: {said}); who is champion is written there, so "
            "nothing was changed: start it, let this machine reach it, or correct MLFLOW_TRACKING_URI"
        ) from error


class NotRegistered(Exception):
    """The registry does not know the version that the store speaks of."""


@dataclass(frozen=True)
class ModelRegistry:
    """Versions of the registered model that is named like the use case."""

    uri: str
    use_case: str

    def register(self, adapter: Path, *, run_id: str | None, tags: Mapping[str, str]) -> int:
        """The number of the version with this `fingerprint` tag; it is made if it is not there, so twice gives the same.

        Args:
            adapter: its folder, the version's source; a registry server, which may not read our disk, gets it as files of the run.
            run_id: the MLflow run of the training.
            tags: `fingerprint`, hashes, and what else should be findable.
        """
        client = self._client()
        self._ensure_model(client)
        found = client.search_model_versions(f"name = '{self.use_case}' and tags.{FINGERPRINT} = '{tags[FINGERPRINT]}'")
        if found:
            return min(int(version.version) for version in found)
        source = adapter.as_uri()
        if self.uri.startswith(("http://", "https://")):
            source, run_id = self._uploaded(client, adapter, run_id)
        return int(client.create_model_version(self.use_case, source=source, run_id=run_id, tags=dict(tags)).version)

    def aliases(self) -> dict[str, int]:
        """Which alias stands for which version; empty when nothing was registered yet."""
        client = self._client()
        self._ensure_model(client)
        return {alias: int(version) for alias, version in client.get_registered_model(self.use_case).aliases.items()}

    def point(self, alias: Alias, version: int) -> None:
        """Let an alias stand for a version."""
        self._client().set_registered_model_alias(self.use_case, alias, str(version))

    def forget(self, alias: Alias) -> None:
        """Let an alias stand for nothing; one that does not is fine."""
        if alias in self.aliases():
            self._client().delete_registered_model_alias(self.use_case, alias)

    def confirm(self, version: int, *, adapter_sha256: str) -> None:
        """Refuse a version that the registry does not know, or knows with other weights.

        Raises:
            NotRegistered: as when the registry was emptied after the artifact was made.
        """
        found = [found for found in self._client().search_model_versions(f"name = '{self.use_case}'") if int(found.version) == version]
        seen = found[0].tags.get(ADAPTER_SHA256) if found else None
        if seen != adapter_sha256:
            said = "no such version" if seen is None else f"another adapter ({seen[:12]}…)"
            raise NotRegistered(
                f"{self.uri}: {self.use_case} version {version}: found {said}, want the adapter {adapter_sha256[:12]}…; "
                f"the registry has changed since: delete the artifact of registered_model and materialize it again"
            )

    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _ensure_model(self, client: "MlflowClient") -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(self.use_case, tags={"use_case": self.use_case})
        except MlflowException as error:
            # Another run may have made it just now, so asking first would not help.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _uploaded(self, client: "MlflowClient", adapter: Path, run_id: str | None) -> tuple[str, str]:
        """The adapter as files of a run: the training's, or a new one."""
        if run_id is None:
            experiment = client.get_experiment_by_name(self.use_case)
            experiment_id = client.create_experiment(self.use_case) if experiment is None else experiment.experiment_id
            run_id = client.create_run(experiment_id, run_name=f"{self.use_case} registration").info.run_id
            client.set_terminated(run_id)
        client.log_artifacts(run_id, str(adapter), "registered_adapter")
        return f"{client.get_run(run_id).info.artifact_uri}/registered_adapter", run_id
