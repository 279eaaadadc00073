"""What starts by itself: the monitor by the clock, a retraining by drift or by the clock. All are stopped until somebody starts them."""

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import dagster as dg

from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.deployment.monitoring.build import too_little
from fine_tune_pipeline.guide.deployment.monitoring.page import alarms_told
from fine_tune_pipeline.guide.deployment.monitoring.report import DriftReport, EarlierReport, read_drift
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.monitoring import RetrainSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

Job: TypeAlias = "dg.JobDefinition | UnresolvedAssetJobDefinition"

POLL_SECONDS = 300
WEEK = timedelta(days=7)
NEW_LABELS = 100
"""So many more labels are new evidence, should the retraining that the earlier ones asked for have come to nothing."""

TRIGGER = {"trigger": "drift"}
"""Tag of the runs that drift started: those count for the weekly cap."""


class Call(NamedTuple):
    """What calls for a retraining: a name that stays the same while the evidence does, and what is told."""

    evidence: str
    said: str


def drift_sensor(spec: UseCaseSpec, retrain: Job) -> dg.SensorDefinition:
    """Start `retrain` when enough of the last windows call for it, once for the same evidence, within cooldown and weekly cap."""
    rules = spec.deployment.retrain

    @dg.sensor(
        name=f"{spec.name}_drift",
        job=retrain,
        minimum_interval_seconds=POLL_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Retrains when {rules.drift_windows} of the last {rules.of_windows} windows of traffic, or people's feedback, ask for "
        f"it; at most once in {rules.cooldown_days:g} days and {rules.per_week} times a week.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: ArtifactStore) -> dg.RunRequest | dg.SkipReason:
        artifact = store.open().peek(spec.name, "drift_report")
        if artifact is None:
            return dg.SkipReason("no drift report yet: materialize it, or start the monitor job")
        try:
            report = read_drift(artifact)
        except EarlierReport as error:
            return dg.SkipReason(str(error))
        call = called_for(report, rules)
        if call is None:
            return dg.SkipReason(_quiet(report, rules))
        if _asked(context.cursor) == call.evidence:
            return dg.SkipReason(f"{call.said}; a retraining was asked for already, and no window has come since that says more")
        refused = _too_soon(context.instance, retrain.name, rules)
        if refused is not None:
            return dg.SkipReason(f"{call.said}; {refused}")
        context.update_cursor(json.dumps({"asked": call.evidence, "report": artifact.fingerprint}))
        return _request(artifact, report, call)

    return sensor


def retrain_schedule(spec: UseCaseSpec, retrain: Job) -> dg.ScheduleDefinition | None:
    """Start `retrain` at the times of `deployment.retrain.cron`; None when there are none."""
    cron = spec.deployment.retrain.cron
    said = f"Retrains at {cron}, whatever the traffic looks like; what has not changed is reused."
    return _schedule(f"{spec.name}_retrain", retrain, cron, said)


def monitor_schedule(spec: UseCaseSpec, monitor: Job) -> dg.ScheduleDefinition | None:
    """Start `monitor` at the times of `deployment.monitoring.cron`; None when there are none."""
    cron = spec.deployment.monitoring.cron
    return _schedule(
        f"{spec.name}_monitor", monitor, cron, f"Looks at the traffic at {cron}: closes windows and judges those that are new."
    )


def called_for(report: DriftReport, rules: RetrainSpec) -> Call | None:
    """Why the model should be trained again, if it should: feedback at once, signals when enough windows agree."""
    if report.feedback is not None and report.feedback.alarm:
        return Call(
            f"feedback-{report.champion}-{report.feedback.labels // NEW_LABELS}", f"answers have become worse ({alarms_told(report)})"
        )
    windows = report.last_judged(rules.of_windows)
    calling = [one for one in windows if one.retrain]
    if len(calling) < rules.drift_windows:
        return None
    told = "; ".join(f"window {one.number}: {', '.join(one.alarms)}" for one in calling)
    said = f"drift in {len(calling)} of the last {len(windows)} windows ({told})"
    return Call(f"{calling[-1].sha256[:16]}-{report.champion}", said)


def _schedule(name: str, job: Job, cron: str | None, said: str) -> dg.ScheduleDefinition | None:
    if cron is None:
        return None
    return dg.ScheduleDefinition(name=name, job=job, cron_schedule=cron, default_status=dg.DefaultScheduleStatus.STOPPED, description=said)


def _request(artifact: Artifact, report: DriftReport, call: Call) -> dg.RunRequest:
    """One run for the same evidence: Dagster ignores a second request with the same key."""
    tags = {**TRIGGER, "drift_report": artifact.fingerprint, "drift_champion": report.champion or "none"}
    return dg.RunRequest(run_key=f"drift-{call.evidence}", tags=tags)


def _asked(cursor: str | None) -> str | None:
    """The evidence that a retraining was asked for last."""
    return json.loads(cursor)["asked"] if cursor else None


def _quiet(report: DriftReport, rules: RetrainSpec) -> str:
    if report.verdict == "not enough traffic":
        return too_little(report)
    if report.verdict == "no drift":
        least = min(report.signals, key=lambda signal: signal.adjusted)
        return f"no drift in {report.requests} requests: {least.name} has p {least.adjusted:.3g} (Holm), alarm at {report.alpha:g}"
    windows = report.last_judged(rules.of_windows)
    calling = sum(one.retrain for one in windows)
    return (
        f"drift in {report.requests} requests ({alarms_told(report)}), but only {calling} of the last {len(windows)} windows call for a "
        f"retraining, want {rules.drift_windows}"
    )


def _too_soon(instance: dg.DagsterInstance, job: str, rules: RetrainSpec) -> str | None:
    """Why no retraining may start yet: the last one, whoever asked for it, is too fresh, or drift has started enough this week."""
    now = datetime.now(UTC)
    last = instance.get_run_records(filters=dg.RunsFilter(job_name=job), limit=1)
    left = timedelta(0) if not last else last[0].create_timestamp.astimezone(UTC) + timedelta(days=rules.cooldown_days) - now
    if left > timedelta(0):
        return f"the last retraining is too fresh: {left.total_seconds() / 86400:.1f} days of cooldown left"
    week = dg.RunsFilter(job_name=job, tags=TRIGGER, created_after=now - WEEK)
    started = instance.get_run_records(filters=week, limit=rules.per_week)
    if len(started) < rules.per_week:
        return None
    free = (started[-1].create_timestamp.astimezone(UTC) + WEEK - now).total_seconds() / 86400
    return f"drift has started {len(started)} retrainings within seven days, at most {rules.per_week} may: the next in {free:.1f} days"
