"""What looks at a release while nobody runs anything: a sensor, stopped until somebody starts it; and how Dagster is told of a decision."""

import os

import dagster as dg

from fine_tune_pipeline.artifacts.manifest import Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.artifacts.traffic_database import LogFailed, NoDatabaseUrl
from fine_tune_pipeline.guide.deployment.live import ASSET
from fine_tune_pipeline.guide.deployment.registry import ModelRegistry, RegistryDown, registry_answers
from fine_tune_pipeline.guide.deployment.release.steps import Desk, Step, look
from fine_tune_pipeline.guide.deployment.release.told import APPROVAL, CANARY, WATCH, publish
from fine_tune_pipeline.resources.endpoint import EndpointFailed, NotRunning
from fine_tune_pipeline.resources.endpoint_client import EndpointError, Unreachable
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import shown

LOOK_SECONDS = 30

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


def release_sensor(spec: UseCaseSpec) -> dg.SensorDefinition:
    """Promotes a canary that did well, and rolls back what did not, each with its reason at the asset `endpoint`."""

    @dg.sensor(
        name=f"{spec.name}_release",
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Looks at a canary or a version that was just promoted: promotes it, keeps it, or rolls it back, by the traffic log.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, store: ArtifactStore, serving: Serving, tracking: ExperimentTracking
    ) -> dg.SensorResult | dg.SkipReason:
        registry = ModelRegistry(uri=tracking.uri, use_case=spec.name)
        try:
            desk = Desk(spec.name, serving.endpoint(spec.name), registry, log=serving.traffic_log(spec), store=store.open())
            with registry_answers(registry.uri):
                step = look(desk)
                artifact = publish(desk, step)
        except (RegistryDown, NotRunning, EndpointFailed, EndpointError, Unreachable, LogFailed, NoDatabaseUrl) as error:
            return dg.SkipReason(f"not decided, the next look tries again: {error}")
        if artifact is None:
            return dg.SkipReason(step.reason)
        context.log.info(step.reason)
        return dg.SensorResult(asset_events=events(desk, artifact))

    return sensor


def events(desk: Desk, artifact: Artifact) -> list[Event]:
    """What Dagster keeps of a decision: the asset `endpoint` as it is now, and the checks that say why."""
    key = dg.AssetKey([desk.use_case, ASSET])
    built = artifact.manifest.built
    metadata = {name: shown(value) for name, value in built.metadata.items()}
    tags = {"dagster/data_version": artifact.fingerprint}
    found: list[Event] = [dg.AssetMaterialization(asset_key=key, metadata=metadata, tags=tags)]
    found.extend(_evaluation(key, check) for check in built.checks if check.name in (CANARY, WATCH, APPROVAL))
    return found


def _evaluation(key: dg.AssetKey, check: Check) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=check.name,
        passed=check.passed,
        severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
        description=check.description,
        metadata={name: shown(value) for name, value in check.metadata.items()},
        blocking=check.blocking,
    )


def tell(desk: Desk, step: Step) -> None:
    """Write a step down, in the store and, where Dagster has a home, there."""
    artifact = publish(desk, step)
    if artifact is None or "DAGSTER_HOME" not in os.environ:
        return
    with dg.DagsterInstance.get() as instance:
        for event in events(desk, artifact):
            instance.report_runless_asset_event(event)
