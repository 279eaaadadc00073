"""Steps 4 to 6 once with the real programs, on the tiny model."""

from dataclasses import replace

import dagster as dg
import pytest
from mlflow import MlflowClient

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.guide.environment.assets import environment
from fine_tune_pipeline.guide.technique.assets import training_plan
from fine_tune_pipeline.guide.training.assets import adapter
from fine_tune_pipeline.programs.models import is_peft_folder, weights_sha256
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
def test_a_tiny_model_is_planned_tried_out_and_trained(tmp_path):
    store = artifact_store(tmp_path)
    kept_dataset(store, examples(copies=4), examples(copies=1, prefix="validation"), test=examples(copies=1, prefix="test"))
    kept_base_model(store, tiny_model(tmp_path / "model"))
    spec = use_case(tmp_path, training={"learning_rate": 0.01, "effective_batch": 8})
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def materialize() -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [training_plan(spec), environment(spec), adapter(spec), *upstream_assets("objective", "base_model", "dataset", "baselines")],
            resources={
                "store": store,
                "compute": PlacedCompute(),
                "tracking": ExperimentTracking(uri=uri, artifacts=str(tmp_path / "mlruns")),
            },
        )

    result = materialize()
    assert all(check.passed for check in result.get_asset_check_evaluations())

    tried, trained = (store.current("triage", name) for name in ("environment", "adapter"))
    assert tried.metadata["over_long_rows"] == 0
    assert tried.metadata["tokens_longest"] <= tried.metadata["max_length"]
    assert tried.metadata["peak_measured_over_predicted"] > 0
    assert is_peft_folder(trained.file("adapter"))
    assert weights_sha256(trained.file("adapter")) == trained.metadata["adapter_sha256"]
    assert trained.metadata["validation_loss_after"] < trained.metadata["validation_loss_before"]
    assert len(read_rows(trained.file("curve.jsonl"))) == trained.metadata["steps"] == 32 * 3 / 8
    run = MlflowClient(tracking_uri=uri).get_run(trained.metadata["mlflow_run_id"])
    assert run.data.tags["dagster/run_id"] == result.run_id
    for name in ("peak_error", "time_error"):
        assert run.data.metrics[f"plan/{name}"] == trained.metadata[name]

    # Other rows, twice as long and three times as many: the plan has learned from the first run.
    longer = [replace(row, prompt=f"{row.prompt} {row.prompt}") for row in examples(copies=12, prefix="longer")]
    kept_dataset(store, longer, examples(copies=1, prefix="validation"), what="longer")
    materialize()
    again = store.current("triage", "adapter").metadata
    assert abs(again["peak_error"]) < 0.15 < abs(trained.metadata["peak_error"])
