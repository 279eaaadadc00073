"""What looks at a release without a run, and what Dagster then shows."""

import shutil
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.guide.deployment.release.sensor import events, release_sensor
from fine_tune_pipeline.guide.deployment.release.steps import roll_back
from fine_tune_pipeline.guide.deployment.release.told import publish
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.release import CanarySpec
from fine_tune_pipeline_tests.guide.deployment.release.release_world import World, world
from fine_tune_pipeline_tests.guide.deployment.world import use_case

# MLflow's tables ask SQLAlchemy for a strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning")


def looked(it: World, monkeypatch: pytest.MonkeyPatch, *, uri: str | None = None) -> dg.SensorResult | dg.SkipReason:
    monkeypatch.setattr(Serving, "endpoint", lambda self, name: it.endpoint)
    monkeypatch.setattr(Serving, "traffic_log", lambda self, name: it.stand.log)
    resources: dict[str, Any] = {
        "store": ArtifactStore(url=str(it.store.root), reviews="/nowhere"),
        "serving": Serving(folder=str(it.stand.folder)),
        "tracking": ExperimentTracking(uri=uri or it.registry.uri),
    }
    found = release_sensor(use_case())(dg.build_sensor_context(resources=resources))
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def skipped(found: object) -> str:
    assert isinstance(found, dg.SkipReason)
    return found.skip_message or ""


def test_it_is_stopped_until_somebody_starts_it():
    sensor = release_sensor(use_case())
    assert (sensor.name, sensor.default_status) == ("bank_release", dg.DefaultSensorStatus.STOPPED)


def test_a_release_is_looked_at_decided_and_shown_at_the_asset_endpoint(
    tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = f"sqlite:///{shutil.copy(empty_registry, tmp_path)}"
    with world(tmp_path, uri) as it:
        it.seconds = time.time()
        assert skipped(looked(it, monkeypatch)) == "bank: no version has passed its checks yet; materialize its asset endpoint"
        it.begin(1)
        it.begin(2, canary=CanarySpec(share=0.5))
        assert skipped(looked(it, monkeypatch)) == "bank-v2: canary: 0 of 50 requests, 0 of 60 minutes"
        it.fill(100, arm="champion", version=1)
        it.fill(8, arm="canary", version=2, bad=8, status=500)
        found = looked(it, monkeypatch)
        assert isinstance(found, dg.SensorResult)
        materialization, canary, watch = found.asset_events
        assert isinstance(materialization, dg.AssetMaterialization)
        assert isinstance(canary, dg.AssetCheckEvaluation)
        assert isinstance(watch, dg.AssetCheckEvaluation)
        assert materialization.metadata["champion"].value == "bank-v1"
        assert (canary.check_name, canary.passed, watch.passed) == ("canary", False, True)
        assert "errors: 8 of 8 against 0 of 100" in (canary.description or "")
        assert it.registry.aliases()["champion"] == 1
        assert skipped(looked(it, monkeypatch)).startswith("bank-v2 is rolled back: worse than version 1")
        _without_the_registry_it_decides_nothing(it, monkeypatch)
        _a_decision_of_a_person_is_kept_by_dagster_too(it)


def _without_the_registry_it_decides_nothing(it: World, monkeypatch: pytest.MonkeyPatch) -> None:
    it.begin(4, canary=CanarySpec(share=0.5, answers=20))
    it.fill(20, arm="canary", version=4)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "not decided, the next look tries again" in skipped(looked(it, monkeypatch, uri="http://127.0.0.1:9"))
    assert isinstance(looked(it, monkeypatch), dg.SensorResult)
    assert it.registry.aliases()["champion"] == 4


def _a_decision_of_a_person_is_kept_by_dagster_too(it: World) -> None:
    it.begin(5, canary=None)
    artifact = publish(it.desk, roll_back(it.desk, by="ann", reason="rude"))
    assert artifact is not None
    with dg.DagsterInstance.ephemeral() as instance:
        for event in events(it.desk, artifact):
            instance.report_runless_asset_event(event)
        event = instance.get_latest_materialization_event(dg.AssetKey(["bank", "endpoint"]))
        assert event is not None
        assert event.asset_materialization is not None
        assert event.asset_materialization.metadata["release"].value == "rude"
        check = next(found for found in artifact.manifest.built.checks if found.name == "watch")
        assert (check.passed, check.description) == (False, "version 5 was rolled back: rude")
