"""Sensors that pick up what people hand in: a new or changed verdict file starts the asset that reads it."""

from pathlib import Path

import dagster as dg

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.artifacts.reviews import verdict_files
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.use_case import UseCaseSpec


def review_sensor(spec: UseCaseSpec, *, kind: str, asset: str) -> dg.SensorDefinition:
    """Materialize `asset` when verdicts of `kind` change. Stopped until somebody starts it."""

    @dg.sensor(
        name=f"{spec.name}_{kind}_reviewed",
        target=dg.AssetSelection.assets([spec.name, asset]),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Picks up verdicts on {kind} that people handed in, and materializes {asset}.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: ArtifactStore) -> dg.SensorResult | dg.SkipReason:
        state = handed_in(store.review_root / spec.name / kind)
        if not state:
            return dg.SkipReason(f"nobody has handed in verdicts on {kind}")
        if state == context.cursor:
            return dg.SkipReason(f"verdicts on {kind} are as they were")
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=state, tags={"trigger": f"{kind}_reviewed"})], cursor=state)

    return sensor


def handed_in(folder: Path) -> str:
    """A digest of all files handed in below a folder; empty when there is none."""
    return ",".join(file_sha256(path)[:16] for path in verdict_files(folder))
