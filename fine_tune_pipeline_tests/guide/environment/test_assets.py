from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.guide.environment.assets import environment
from fine_tune_pipeline.guide.environment.preflight import read_preflight
from fine_tune_pipeline.guide.technique.assets import training_plan
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline_tests.guide.technique.stand_ins import (
    RuleCompute,
    artifact_store,
    examples,
    kept_base_model,
    kept_dataset,
    upstream_assets,
    use_case,
)
from fine_tune_pipeline_tests.tiny import tiny_model


@pytest.fixture
def upstream(tmp_path: Path) -> None:
    store = artifact_store(tmp_path)
    kept_dataset(store, examples(copies=4), examples(copies=2, prefix="validation"))
    kept_base_model(store, tiny_model(tmp_path / "model"))


def run(folder: Path, *, sections: dict[str, Any] | None = None, **compute: Any) -> dg.ExecuteInProcessResult:
    spec = use_case(folder, **(sections or {}))
    return dg.materialize(
        [training_plan(spec), environment(spec), *upstream_assets("objective", "base_model", "dataset", "baselines")],
        resources={
            "store": artifact_store(folder),
            "compute": RuleCompute(record=str(folder / "record"), **compute),
            "tracking": ExperimentTracking(uri="http://mlflow:5000", artifacts="s3://files"),
        },
        raise_on_error=False,
    )


def check(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    [found] = [item for item in result.get_asset_check_evaluations() if item.check_name == "preflight_passed"]
    return found


def test_preflight_runs_the_plan_where_training_will_run(tmp_path, upstream):
    result = run(tmp_path)
    assert result.success
    assert check(result).passed
    [asked] = RuleCompute(record=str(tmp_path / "record")).asked("preflight")
    assert (asked["technique"]["type"], asked["placement"]["device"], asked["format"]["instruction"]) == ("lora", "cpu", "")
    assert (asked["tracking"]["uri"], asked["tracking"]["experiment"]) == ("http://mlflow:5000", "triage")
    assert (asked["artifacts"], asked["over_long_limit"]) == ("s3://files", 0.02)
    artifact = artifact_store(tmp_path).current("triage", "environment")
    assert read_preflight(artifact).rows == 32 + 16, "validation rows go through the model too"
    assert read_preflight(artifact).tokens_per_second == 46
    assert {path.name for path in artifact.folder.iterdir()} == {"preflight.json", "texts.html", "over_long.jsonl", "manifest.json"}
    assert artifact.metadata["peak_measured_over_predicted"] > 0
    # 32 rows of about 23 tokens, three times, at 46 tokens a second.
    assert artifact.metadata["predicted_minutes"] == pytest.approx(32 * 23 * 3 / 46 / 60)


def test_an_unmet_demand_stops_everything_downstream(tmp_path, upstream):
    found = check(run(tmp_path, sections={"environment": {"disk_free_gib": 50}}))
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.ERROR
    assert "training must not start: disk: 10.0 GiB are free" in (found.description or "")


def test_over_long_rows_within_the_limit_are_named_and_do_not_stop(tmp_path, upstream):
    found = check(run(tmp_path, sections={"training": {"over_long_limit": 0.1}}, over_long=["train-3"]))
    assert found.passed
    assert "1 over-long rows are left out of training: train-3" in (found.description or "")


def test_another_place_is_tried_again(tmp_path, upstream):
    for cores in (2, 2, 4):
        run(tmp_path, cores=cores)
    assert len(RuleCompute(record=str(tmp_path / "record")).asked("preflight")) == 2
