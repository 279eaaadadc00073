"""What is shown beside an evaluation without being part of it: the experiments before it, and where MLflow has it."""

from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.evaluation.iterate.compared import history
from fine_tune_pipeline.guide.evaluation.iterate.experiments_page import html_page, table_rows
from fine_tune_pipeline.guide.evaluation.iterate.tracked import track_evaluation
from fine_tune_pipeline.guide.training.adapter import read_train_result
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.store import Kept
    from fine_tune_pipeline.resources.tracking import ExperimentTracking

PAGE = "experiments.html"

SHOWN = 20
"""Experiments in the web UI, the newest; all of them are on the page."""


def beside(store: Store, tracking: "ExperimentTracking", spec: UseCaseSpec, kept: "Kept", adapter: Artifact) -> Built:
    """The table of experiments. Of an evaluation that was just made also the page, and its run in MLflow if the training has one."""
    found = history(store, spec)
    shown: dict[str, Any] = {"experiments": table_rows(found)[:SHOWN]}
    if kept.reused:
        return Built(metadata=shown)
    shown["experiments_page"] = str(store.page(spec.name, PAGE, html_page(spec.name, found)))
    run = read_train_result(adapter).mlflow_run_id
    if run is not None:
        changed = next((one.changed for one in found.experiments if one.fingerprint == kept.artifact.fingerprint), ())
        shown["mlflow"] = track_evaluation(tracking, spec.name, kept.artifact, training_run=run, changed=changed)
    return Built(metadata=shown)
