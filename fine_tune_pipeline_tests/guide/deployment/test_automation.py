"""What starts a retraining: drift in enough windows, once for the same evidence, never too often; and the clock."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Store, content_of
from fine_tune_pipeline.guide.deployment.automation import drift_sensor, monitor_schedule, retrain_schedule
from fine_tune_pipeline.guide.deployment.monitoring.assets import drift_report, production_traffic
from fine_tune_pipeline.guide.deployment.monitoring.feedback import Feedback
from fine_tune_pipeline.guide.deployment.monitoring.report import VERSION, DriftReport, Judged
from fine_tune_pipeline.guide.deployment.monitoring.signals import Signal
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline_tests.guide.deployment.world import USE_CASE, use_case


@dg.job(name="bank_retrain")
def retrain() -> None:
    """Stands for the job."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def window(number: int, verdict: str = "drift", *, retrain: bool | None = None, champion: str = "bank-v1") -> Judged:
    calls = verdict == "drift" if retrain is None else retrain
    alarms = ("far_share" if calls else "prompt_length",) if verdict == "drift" else ()
    fields = {"sha256": f"{number:016d}" * 4, "first": 1.0, "last": 2.0, "requests": 60, "alarms": alarms}
    return Judged.model_validate({"number": number, "champion": champion, "verdict": verdict, "retrain": calls, **fields})


def keep_report(folder: Path, *windows: Judged, adjusted: float = 0.2, version: int = VERSION, **fields: Any) -> str:
    """A drift report in the store; its fingerprint."""
    last = windows[-1] if windows else None
    signal = Signal(
        name="far_share",
        asks="?",
        calls_for="retrain",
        p=adjusted / 2,
        adjusted=adjusted,
        effect=0.1,
        effect_means="more",
        production=60,
        reference=70,
        alarm=last is not None and last.verdict == "drift",
    )
    content: dict[str, Any] = {
        "verdict": "not enough traffic" if last is None else last.verdict,
        "requests": 0 if last is None else last.requests,
        "minimum_requests": 40,
        "window": 60,
        "waiting": 12,
        "alpha": 0.01,
        "champion": "bank-v1",
        "dataset": "d",
        "predictions": "p",
        "encoder_sha256": "e",
        "signals": () if last is None else (signal,),
        "feedback": None,
        "measures": (),
        "versions": {} if last is None else {"1": 60},
        "judged": windows,
        "new_windows": 1,
        **fields,
    }
    report = DriftReport.model_validate(content)
    what = {"report": report.model_dump_json()}
    with Store.at(str(folder)).draft(USE_CASE, content_of(asset="drift_report", version=version, what=what, upstream={})) as draft:
        (draft.folder / "drift.json").write_text(report.model_dump_json(), encoding="utf-8")
        return draft.finish(Built()).fingerprint


def looked(
    folder: Path, instance: dg.DagsterInstance, *, cursor: str | None = None, **deployment: Any
) -> tuple[dg.RunRequest | dg.SkipReason, str | None]:
    """What the sensor answers, and its cursor afterwards."""
    sensor = drift_sensor(use_case(**deployment), retrain)
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"store": ArtifactStore(url=str(folder), reviews=str(folder / "reviews"))}
    )
    found = sensor(context)
    assert isinstance(found, dg.RunRequest | dg.SkipReason)
    return found, context.cursor


def asked_for(found: tuple[dg.RunRequest | dg.SkipReason, str | None]) -> dg.RunRequest:
    assert isinstance(found[0], dg.RunRequest), found[0].skip_message
    return found[0]


def skipped(found: tuple[dg.RunRequest | dg.SkipReason, str | None]) -> str:
    assert isinstance(found[0], dg.SkipReason)
    return found[0].skip_message or ""


def test_without_a_report_it_says_what_to_do(tmp_path: Path, instance: dg.DagsterInstance):
    assert "monitor" in skipped(looked(tmp_path, instance))


def test_a_report_of_an_earlier_version_says_what_to_do(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, window(1), version=1)
    assert "run the monitor job" in skipped(looked(tmp_path, instance))


def test_quiet_traffic_is_skipped_with_the_number(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, window(1, "no drift"), adjusted=0.37)
    assert skipped(looked(tmp_path, instance)) == "no drift in 60 requests: far_share has p 0.37 (Holm), alarm at 0.01"


def test_too_little_traffic_is_skipped_with_the_number(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path)
    assert skipped(looked(tmp_path, instance)) == "not enough traffic: 12 requests wait, a window is closed with 60"


def test_two_of_the_last_three_windows_must_call_for_a_retraining(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, window(1), window(2, "no drift"), window(3, "no drift"), window(4))
    assert "only 1 of the last 3 windows call for a retraining, want 2" in skipped(looked(tmp_path, instance))
    keep_report(tmp_path, window(1), window(2), window(3, "no drift"))
    assert asked_for(looked(tmp_path, instance)).tags["drift_champion"] == "bank-v1"
    keep_report(tmp_path, window(1))
    once = {"drift_windows": 1, "of_windows": 1}
    assert asked_for(looked(tmp_path, instance, retrain=once)).tags["trigger"] == "drift"


def test_windows_of_another_champion_or_with_too_little_traffic_do_not_count(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, window(1, champion="bank-v0"), window(2))
    assert "only 1 of the last 1 windows" in skipped(looked(tmp_path, instance))
    keep_report(tmp_path, window(1), window(2, "not enough traffic"), window(3, "not enough traffic"), window(4))
    assert asked_for(looked(tmp_path, instance)).run_key is not None


def test_drift_that_only_asks_to_look_retrains_nothing(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, *(window(number, retrain=False) for number in (1, 2, 3)))
    assert "only 0 of the last 3 windows" in skipped(looked(tmp_path, instance))


def test_feedback_retrains_at_once(tmp_path: Path, instance: dg.DagsterInstance):
    worse = Feedback(labels=60, good=30, expected=0.8, p=0.001, alpha=0.05, alarm=True, since=20, recent=0.4, values=(1.0,))
    keep_report(tmp_path, window(1, "no drift"), feedback=worse, verdict="drift")
    assert asked_for(looked(tmp_path, instance)).run_key == "drift-feedback-bank-v1-0"


def test_the_same_evidence_asks_once_and_a_new_window_again(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, window(1), window(2))
    first, cursor = looked(tmp_path, instance)
    keep_report(tmp_path, window(1), window(2), waiting=30)
    assert "asked for already" in skipped(looked(tmp_path, instance, cursor=cursor))
    keep_report(tmp_path, window(1), window(2), window(3))
    second, _ = looked(tmp_path, instance, cursor=cursor)
    assert isinstance(first, dg.RunRequest)
    assert isinstance(second, dg.RunRequest)
    assert first.run_key != second.run_key


def test_within_the_cooldown_after_a_retraining_it_waits_and_says_how_long(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, window(1), window(2))
    assert retrain.execute_in_process(instance=instance).success
    assert "7.0 days of cooldown left" in skipped(looked(tmp_path, instance))
    assert asked_for(looked(tmp_path, instance, retrain={"cooldown_days": 0.0}))


def test_drift_starts_no_more_retrainings_a_week_than_it_may(tmp_path: Path, instance: dg.DagsterInstance):
    keep_report(tmp_path, window(1), window(2))
    weekly = {"cooldown_days": 0.0, "per_week": 2}
    assert retrain.execute_in_process(instance=instance).success
    assert retrain.execute_in_process(instance=instance, tags={"trigger": "drift"}).success
    assert asked_for(looked(tmp_path, instance, retrain=weekly))
    assert retrain.execute_in_process(instance=instance, tags={"trigger": "drift"}).success
    said = skipped(looked(tmp_path, instance, retrain=weekly))
    assert "drift has started 2 retrainings within seven days, at most 2 may: the next in 7.0 days" in said


def test_the_sensor_is_stopped_until_somebody_starts_it():
    sensor = drift_sensor(use_case(), retrain)
    assert (sensor.name, sensor.default_status) == ("bank_drift", dg.DefaultSensorStatus.STOPPED)


def test_the_monitor_looks_every_hour_unless_told_otherwise():
    schedule = monitor_schedule(use_case(), retrain)
    assert schedule is not None
    assert (schedule.name, schedule.cron_schedule, schedule.default_status) == (
        "bank_monitor",
        "0 * * * *",
        dg.DefaultScheduleStatus.STOPPED,
    )
    assert monitor_schedule(use_case(monitoring={"cron": None}), retrain) is None


def test_snapshot_and_report_are_overdue_after_a_day_and_a_little():
    [policy] = {asset.get_asset_spec().freshness_policy for asset in (production_traffic(use_case()), drift_report(use_case()))}
    assert policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26), warn_window=timedelta(hours=23.4))
    assert drift_report(use_case(monitoring={"fresh_hours": None})).get_asset_spec().freshness_policy is None


def test_there_is_a_schedule_only_if_the_use_case_wants_one():
    assert retrain_schedule(use_case(), retrain) is None
    schedule = retrain_schedule(use_case(retrain={"cron": "0 3 * * 1"}), retrain)
    assert schedule is not None
    assert (schedule.cron_schedule, schedule.job_name, schedule.default_status) == (
        "0 3 * * 1",
        "bank_retrain",
        dg.DefaultScheduleStatus.STOPPED,
    )
