"""What starts a retraining: drift once per report, never within the cooldown, and the clock if the use case says so."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Store, content_of
from fine_tune_pipeline.guide.deployment.automation import drift_sensor, retrain_schedule
from fine_tune_pipeline.guide.deployment.drift import DriftReport, Signal
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline_tests.guide.deployment.world import USE_CASE, use_case


@dg.job(name="bank_retrain")
def retrain() -> None:
    """Stands for the job."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def keep_report(folder: Path, verdict: str, *, requests: int = 60, adjusted: float = 0.2) -> str:
    """A drift report in the store; its fingerprint."""
    signal = Signal(
        name="far_share",
        asks="?",
        p=adjusted / 2,
        adjusted=adjusted,
        effect=0.1,
        effect_means="more",
        production=60,
        reference=70,
        alarm=verdict == "drift",
        examples=(),
    )
    report = DriftReport.model_validate(
        {
            "verdict": verdict,
            "requests": requests,
            "minimum_requests": 40,
            "window": 60,
            "alpha": 0.01,
            "champion": "bank-v1",
            "dataset": "d",
            "predictions": "p",
            "encoder_sha256": "e",
            "signals": () if verdict == "not enough traffic" else (signal,),
        }
    )
    with Store.at(str(folder)).draft(
        USE_CASE, content_of(asset="drift_report", version=1, what={"v": verdict, "p": adjusted}, upstream={})
    ) as draft:
        (draft.folder / "drift.json").write_text(json.dumps(report.model_dump()), encoding="utf-8")
        return draft.finish(Built()).fingerprint


def looked(folder: Path, instance: dg.DagsterInstance, **deployment: Any) -> dg.RunRequest | dg.SkipReason:
    sensor = drift_sensor(use_case(**deployment), retrain)
    context = dg.build_sensor_context(
        instance=instance, resources={"store": ArtifactStore(url=str(folder), reviews=str(folder / "reviews"))}
    )
    found = sensor(context)
    assert isinstance(found, dg.RunRequest | dg.SkipReason)
    return found


def skipped(found: dg.RunRequest | dg.SkipReason) -> str:
    assert isinstance(found, dg.SkipReason)
    return found.skip_message or ""


def test_without_a_report_it_says_what_to_do(tmp_path: Path, instance: dg.DagsterInstance):
    assert "monitor" in skipped(looked(tmp_path, instance))


def test_quiet_traffic_is_skipped_with_the_number(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, "no drift", adjusted=0.37)
    assert skipped(looked(tmp_path, instance)) == "no drift in 60 requests: far_share has p 0.37 (Holm), alarm at 0.01"


def test_too_little_traffic_is_skipped_with_the_number(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, "not enough traffic", requests=12)
    assert skipped(looked(tmp_path, instance)) == "not enough traffic: 12 of 40 requests"


def test_drift_asks_for_one_run_per_report(tmp_path: Path, instance: dg.DagsterInstance):
    keys = []
    for adjusted in (0.001, 0.001, 0.002):
        fingerprint = keep_report(tmp_path, "drift", adjusted=adjusted)
        found = looked(tmp_path, instance)
        assert isinstance(found, dg.RunRequest)
        assert found.run_key == f"drift-{fingerprint}"
        assert found.tags["drift_champion"] == "bank-v1"
        keys.append(found.run_key)
    assert keys[0] == keys[1] != keys[2]


def test_within_the_cooldown_after_a_retraining_it_waits_and_says_how_long(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, "drift", adjusted=0.001)
    assert retrain.execute_in_process(instance=instance).success
    assert "7.0 days of cooldown left" in skipped(looked(tmp_path, instance))
    assert isinstance(looked(tmp_path, instance, retrain={"cooldown_days": 0.0}), dg.RunRequest)


def test_the_sensor_is_stopped_until_somebody_starts_it():
    sensor = drift_sensor(use_case(), retrain)
    assert (sensor.name, sensor.default_status) == ("bank_drift", dg.DefaultSensorStatus.STOPPED)


def test_there_is_a_schedule_only_if_the_use_case_wants_one():
    assert retrain_schedule(use_case(), retrain) is None
    schedule = retrain_schedule(use_case(retrain={"cron": "0 3 * * 1"}), retrain)
    assert schedule is not None
    assert (schedule.cron_schedule, schedule.job_name, schedule.default_status) == (
        "0 3 * * 1",
        "bank_retrain",
        dg.DefaultScheduleStatus.STOPPED,
    )
