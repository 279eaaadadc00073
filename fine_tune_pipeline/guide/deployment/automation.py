"""What starts a retraining by itself: drift, or the clock. Both are stopped until somebody starts them."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import dagster as dg

from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.deployment.drift import DriftReport, read_drift
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

Job: TypeAlias = "dg.JobDefinition | UnresolvedAssetJobDefinition"

POLL_SECONDS = 300


def drift_sensor(spec: UseCaseSpec, retrain: Job) -> dg.SensorDefinition:
    """Start `retrain` when the last drift report says drift, once per report, and not again before the cooldown is over."""

    @dg.sensor(
        name=f"{spec.name}_drift",
        job=retrain,
        minimum_interval_seconds=POLL_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Retrains when the drift report says drift; at most once in {spec.deployment.retrain.cooldown_days:g} days.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: ArtifactStore) -> dg.RunRequest | dg.SkipReason:
        artifact = store.open().peek(spec.name, "drift_report")
        if artifact is None:
            return dg.SkipReason("no drift report yet: materialize it, or start the monitor job")
        report = read_drift(artifact)
        if report.verdict != "drift":
            return dg.SkipReason(_quiet(report))
        left = _cooldown_left(context.instance, retrain.name, days=spec.deployment.retrain.cooldown_days)
        if left > timedelta(0):
            return dg.SkipReason(
                f"{_loud(report)}; the last retraining is too fresh: {left.total_seconds() / 86400:.1f} days of cooldown left"
            )
        return _request(artifact, report)

    return sensor


def retrain_schedule(spec: UseCaseSpec, retrain: Job) -> dg.ScheduleDefinition | None:
    """Start `retrain` at the times of `deployment.retrain.cron`; None when there are none."""
    cron = spec.deployment.retrain.cron
    if cron is None:
        return None
    return dg.ScheduleDefinition(
        name=f"{spec.name}_retrain",
        job=retrain,
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Retrains at {cron}, whatever the traffic looks like; what has not changed is reused.",
    )


def _request(artifact: Artifact, report: DriftReport) -> dg.RunRequest:
    """One run per report: Dagster ignores a second request with the same key."""
    tags = {"trigger": "drift", "drift_report": artifact.fingerprint, "drift_champion": report.champion or "none"}
    return dg.RunRequest(run_key=f"drift-{artifact.fingerprint}", tags=tags)


def _quiet(report: DriftReport) -> str:
    if report.verdict == "not enough traffic":
        return f"not enough traffic: {report.requests} of {report.minimum_requests} requests"
    least = min(report.signals, key=lambda signal: signal.adjusted)
    return f"no drift in {report.requests} requests: {least.name} has p {least.adjusted:.3g} (Holm), alarm at {report.alpha:g}"


def _loud(report: DriftReport) -> str:
    told = ", ".join(f"{signal.name} p {signal.adjusted:.3g}" for signal in report.signals if signal.alarm)
    return f"drift in {report.requests} requests ({told})"


def _cooldown_left(instance: dg.DagsterInstance, job: str, *, days: float) -> timedelta:
    """How long until a retraining may start again, counted from the start of the last one, whoever asked for it."""
    records = instance.get_run_records(filters=dg.RunsFilter(job_name=job), limit=1)
    if not records:
        return timedelta(0)
    return records[0].create_timestamp.astimezone(UTC) + timedelta(days=days) - datetime.now(UTC)
