"""Sensors that pick up what people have finished: files that they handed in, and what they marked as complete in MLflow."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg

from fine_tune_pipeline.artifacts.fingerprint import file_sha256, fingerprint
from fine_tune_pipeline.artifacts.reviews import verdict_files
from fine_tune_pipeline.guide.dataset.review import queue as example_queues
from fine_tune_pipeline.guide.evaluation.human import mlflow_pairs
from fine_tune_pipeline.people.review_queue import FROM_QUEUE, finished_in
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec


class Seen(NamedTuple):
    """Digests of what people have finished, empty where nothing is; `problem` is why MLflow could not be asked."""

    files: str
    mlflow: str
    problem: str | None = None


def examples_sensor(spec: UseCaseSpec) -> dg.SensorDefinition:
    """Goes on with step 3 and all that follows from it when experts have reviewed examples."""
    review = spec.dataset.review
    return _sensor(
        spec, kind="examples", asset="reviewed_examples", goes_on=review.policy == "experts",
        mlflow=review.policy == "experts" and "mlflow" in review.formats,
    )  # fmt: skip


def pairs_sensor(spec: UseCaseSpec) -> dg.SensorDefinition:
    """Takes in what people said of pairs; goes on to deployment where that waits for them."""
    human = spec.evaluation.human
    judge = ["judge_evaluation"] if spec.evaluation.judge is not None else []
    return _sensor(
        spec, kind="pairs", asset="human_evaluation", read_at_once=judge, goes_on=human.required, mlflow="mlflow" in human.formats
    )


def _sensor(
    spec: UseCaseSpec, *, kind: str, asset: str, goes_on: bool, mlflow: bool, read_at_once: Sequence[str] = ()
) -> dg.SensorDefinition:
    """Stopped until somebody starts it. A run that finds reviews unfinished ends at its blocking check.

    Args:
        goes_on: what follows from the asset is materialized too.
        read_at_once: assets that only look at what people said.
    """
    own = dg.AssetSelection.assets(*([spec.name, name] for name in (asset, *read_at_once)))

    def look(context: dg.SensorEvaluationContext, store: ArtifactStore, asked: str | None) -> dg.SensorResult | dg.SkipReason:
        folder, before = store.review_root / spec.name / kind, _before(context.cursor)
        seen = Seen(handed_in(folder), "") if asked is None else _with_mlflow(folder, spec, kind, asked, before)
        if (seen.files, seen.mlflow) == (before.files, before.mlflow):
            return dg.SkipReason(seen.problem or f"nobody has finished a review of {kind} since the last look")
        cursor = json.dumps([seen.files, seen.mlflow])
        request = dg.RunRequest(run_key=fingerprint({"seen": cursor}), tags={"trigger": f"{kind}_reviewed"})
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    def with_mlflow(context: dg.SensorEvaluationContext, store: ArtifactStore, tracking: ExperimentTracking) -> Any:
        return look(context, store, tracking.uri)

    def with_files(context: dg.SensorEvaluationContext, store: ArtifactStore) -> Any:
        return look(context, store, None)

    return dg.sensor(
        name=f"{spec.name}_{kind}_reviewed",
        target=own.downstream() & dg.AssetSelection.key_prefixes([spec.name]) if goes_on else own,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Picks up reviews of {kind} that people finished, and materializes {asset}{' and what follows' if goes_on else ''}.",
    )(with_mlflow if mlflow else with_files)


def handed_in(folder: Path) -> str:
    """A digest of all files handed in below a folder; empty when there is none."""
    return ",".join(file_sha256(path)[:16] for path in verdict_files(folder))


def _before(cursor: str | None) -> Seen:
    """What was seen at the last look; an earlier version wrote the files' digest alone."""
    if not cursor:
        return Seen("", "")
    return Seen(*json.loads(cursor)) if cursor.startswith("[") else Seen(cursor, "")


def _with_mlflow(folder: Path, spec: UseCaseSpec, kind: str, uri: str, before: Seen) -> Seen:
    """What is finished in files and in MLflow; where that does not answer, it is as it was."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # What a run pulled from MLflow is a file too, and no news.
    files = ",".join(file_sha256(path)[:16] for path in verdict_files(folder) if path.name != FROM_QUEUE)
    try:
        return Seen(files, finished_in(uri, _experiment(folder, spec, kind)))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        said = str(error).splitlines()[0][:300]
        return Seen(files, before.mlflow, f"MLflow at {uri} does not say what people have reviewed ({type(error).__name__}: {said})")


def _experiment(folder: Path, spec: UseCaseSpec, kind: str) -> str:
    """Where reviews of this kind are now: examples have one experiment, pairs one for each hand-out, of which the last counts."""
    if kind == "examples":
        return example_queues.experiment_of(spec.name)
    handouts = sorted(folder.glob("*/handout.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return mlflow_pairs.experiment_named(spec.name, handouts[-1].parent.name if handouts else "")
