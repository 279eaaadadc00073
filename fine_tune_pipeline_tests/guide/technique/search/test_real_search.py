"""A search once with its real program, on the tiny model: asset, live numbers, MLflow, and the plan that follows."""

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from mlflow import MlflowClient

from fine_tune_pipeline.guide.dataset.more.made_rows import SYNTHETIC
from fine_tune_pipeline.guide.technique.assets import training_plan
from fine_tune_pipeline.guide.technique.build_plan import read_plan
from fine_tune_pipeline.guide.technique.search.asset import search
from fine_tune_pipeline.programs.search_requests import SearchResult
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline_tests.guide.technique.stand_ins import (
    artifact_store,
    examples,
    kept_base_model,
    kept_dataset,
    upstream_assets,
    use_case,
)
from fine_tune_pipeline_tests.tiny import tiny_model


# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_a_tiny_model_is_searched_and_the_plan_takes_what_was_found(tmp_path: Path):
    store, rows = artifact_store(tmp_path), examples(copies=3)
    made = [replace(row, id=f"made-{row.id}", metadata={SYNTHETIC: "typos"}) for row in rows[:8]]
    kept_dataset(store, [*rows, *made], examples(copies=1, prefix="validation"))
    kept_base_model(store, tiny_model(tmp_path / "model"))
    space = {"learning_rate": [0.01], "rank": [], "data": {"share_of_augmentation": [0.0]}}
    training = {"learning_rate": 0.0001, "epochs": 1.0, "effective_batch": 8, "search": {"trials": 2, "rungs": [1.0], "space": space}}
    spec, uri = use_case(tmp_path, training=training), f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = dg.materialize(
        [search(spec), training_plan(spec), *upstream_assets("base_model", "dataset", "baselines")],
        resources={
            "store": store,
            "compute": PlacedCompute(),
            "tracking": ExperimentTracking(uri=uri, artifacts=str(tmp_path / "mlruns")),
        },
    )
    found, plan = (store.current("triage", name) for name in ("search", "training_plan"))
    searched = SearchResult.read(found.file("search.json"))
    assert [trial.number for trial in searched.trials] == [0, 1]
    wanted = {1.0: 32, 0.0: 24}
    assert all(trial.rungs[0].rows == wanted[float(trial.parameters["share_of_augmentation"])] for trial in searched.trials)
    assert found.file("journal.log").read_text(encoding="utf-8")
    planned = read_plan(plan)
    assert planned.hyperparameters.learning_rate == searched.chosen.parameters["learning_rate"]
    assert (planned.recipe is None) == (searched.chosen.parameters["share_of_augmentation"] == 1.0)
    assert plan.metadata["search"].startswith(f"from search, trial {searched.choice.number} of 2: ")
    live = [event.asset_observation_data.asset_observation.metadata for event in result.all_events if event.is_asset_observation]
    assert any("live/score" in numbers and "live/trial" in numbers for numbers in live)
    client = MlflowClient(tracking_uri=uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    children = [run for run in client.search_runs(experiments) if "trial" in run.data.tags]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {searched.mlflow_run_id}
    assert len(children) == 2
