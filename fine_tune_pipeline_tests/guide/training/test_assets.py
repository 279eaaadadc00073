from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.environment.assets import environment
from fine_tune_pipeline.guide.technique.assets import training_plan
from fine_tune_pipeline.guide.training.adapter import read_train_result
from fine_tune_pipeline.guide.training.assets import adapter
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


class NoServer(ExperimentTracking):
    """The border to MLflow: the experiment is taken to be there."""

    def experiment(self, use_case: str) -> str:
        return use_case

    def add_numbers(self, run_id: str | None, numbers: Mapping[str, float]) -> None:
        assert set(numbers) == {"plan/peak_error", "plan/time_error"}


@pytest.fixture
def upstream(tmp_path: Path) -> None:
    store = artifact_store(tmp_path)
    kept_dataset(store, examples(copies=4), examples(copies=2, prefix="validation"))
    kept_base_model(store, tiny_model(tmp_path / "model"))


def run(folder: Path, *, sections: dict[str, Any] | None = None, **compute: Any) -> dg.ExecuteInProcessResult:
    spec = use_case(folder, **(sections or {}))
    return dg.materialize(
        [training_plan(spec), environment(spec), adapter(spec), *upstream_assets("objective", "base_model", "dataset", "baselines")],
        resources={
            "store": artifact_store(folder),
            "compute": RuleCompute(record=str(folder / "record"), **compute),
            "tracking": NoServer(uri="http://mlflow:5000"),
        },
        raise_on_error=False,
    )


def trained(folder: Path) -> list[dict[str, Any]]:
    return RuleCompute(record=str(folder / "record")).asked("train")


def current(folder: Path) -> Artifact:
    return artifact_store(folder).current("triage", "adapter")


def test_the_adapter_is_kept_with_its_curve_and_numbers(tmp_path, upstream):
    assert run(tmp_path).success
    artifact = current(tmp_path)
    assert {path.name for path in artifact.folder.iterdir()} == {
        "adapter",
        "curve.jsonl",
        "observation.json",
        "train.json",
        "manifest.json",
    }
    kept = read_train_result(artifact)
    assert (kept.adapter, kept.curve, kept.mlflow_run_id) == ("adapter", "curve.jsonl", "run1")
    assert str(tmp_path) not in artifact.file("train.json").read_text()
    assert len(read_rows(artifact.file("curve.jsonl"))) == 10
    assert artifact.metadata["validation_loss_after"] == 1.0
    assert 0 < artifact.metadata["trainable_share"] < 1
    assert "data:image/svg+xml" in artifact.manifest.built.markdown["loss"]
    assert "/#/runs/run1" in artifact.manifest.built.markdown["mlflow_run"]


def test_what_a_training_measured_corrects_the_plan_that_is_made_next_and_not_the_one_that_is_there(tmp_path, upstream):
    run(tmp_path)
    first = artifact_store(tmp_path).current("triage", "training_plan")
    assert first.manifest.payload["what"]["calibration"] == {}
    assert current(tmp_path).metadata["time_error"] > 0
    assert len(artifact_store(tmp_path).open().notes("calibration")) == 1
    run(tmp_path)
    assert artifact_store(tmp_path).current("triage", "training_plan").fingerprint == first.fingerprint
    run(tmp_path, sections={"training": {"epochs": 2}})
    second = artifact_store(tmp_path).current("triage", "training_plan")
    assert list(second.manifest.payload["what"]["calibration"]) == ["lora float32 supervised"]
    assert second.metadata["calibration"].startswith("corrected by 1 earlier run here: memory x ")
    assert second.metadata["predicted_minutes"] != pytest.approx(first.metadata["predicted_minutes"] * 2 / 3, rel=0.3)


def test_training_is_tracked_and_told_no_instruction(tmp_path, upstream):
    result = run(tmp_path)
    [asked] = trained(tmp_path)
    assert asked["tracking"]["experiment"] == "triage"
    assert asked["tracking"]["tags"] == {"dagster/run_id": result.run_id}
    assert asked["format"] == {"style": "plain", "instruction": ""}
    assert asked["train"].endswith("train.jsonl")


def test_over_long_rows_are_left_out_counted_and_named(tmp_path, upstream):
    assert run(tmp_path, sections={"training": {"over_long_limit": 0.1}}, over_long=["train-3", "train-5", "validation-1"]).success
    assert read_train_result(current(tmp_path)).rows == 30
    assert current(tmp_path).metadata["ids_left_out"] == ["train-3", "train-5", "validation-1"]


@pytest.mark.parametrize(("before", "compute"), [({}, {"cores": 8}), ({}, {"memory_gib": 96})])
def test_another_place_of_the_same_kind_reuses_the_adapter(tmp_path, upstream, before, compute):
    run(tmp_path, **before)
    assert run(tmp_path, **compute).success
    assert len(trained(tmp_path)) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"sections": {"training": {"learning_rate": 2e-4}}},
        {"sections": {"training": {"seed": 1}}},
        {"sections": {"technique": {"type": "lora", "rank": 4}}},
        {"device": "cuda"},
    ],
    ids=["rate", "seed", "rank", "precision"],
)
def test_what_changes_the_mathematics_trains_again(tmp_path, upstream, changed):
    run(tmp_path)
    assert run(tmp_path, **changed).success
    assert len(trained(tmp_path)) == 2


def test_a_loss_that_does_not_fall_stops_everything_downstream(tmp_path, upstream):
    result = run(tmp_path, losses=[1.0, 2.0])
    [check] = [item for item in result.get_asset_check_evaluations() if item.check_name == "loss_finite_and_falling"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR


def test_nothing_is_trained_when_preflight_failed(tmp_path, upstream):
    run(tmp_path, sections={"environment": {"disk_free_gib": 50}})
    assert trained(tmp_path) == []


@pytest.mark.parametrize(("still", "passed"), [([], True), ([1], False)])
def test_experts_that_learn_are_shown_with_their_load_and_must_have_moved(tmp_path, still, passed):
    store = artifact_store(tmp_path)
    kept_dataset(store, examples(copies=4), examples(copies=2, prefix="validation"))
    kept_base_model(store, tiny_model(tmp_path / "model", architecture="mixtral"))
    result = run(tmp_path, sections={"technique": {"type": "lora", "rank": 4, "experts": [0, 1]}}, experts_at_rest=still)
    [check] = [item for item in result.get_asset_check_evaluations() if item.check_name == "experts_moved"]
    assert (check.passed, check.severity) == (passed, dg.AssetCheckSeverity.WARN)
    assert trained(tmp_path)[0]["technique"]["experts"] == [0, 1]
    assert current(tmp_path).metadata["expert_load"][0]["busiest after"] == "0: 50%, 1: 50%, 2: 0%, 3: 0%"


def test_early_stopping_on_a_metric_of_the_task_is_asked_of_the_program_and_trains_again(tmp_path, upstream):
    run(tmp_path)
    assert "answers" not in trained(tmp_path)[0]
    assert run(tmp_path, sections={"training": {"early_stopping": {"metric": "exact_match", "patience": 4}}}).success
    asked = trained(tmp_path)[1]
    assert asked["hyperparameters"]["early_stopping"] == {"metric": "exact_match", "patience": 4, "min_delta": 0.0, "rows": 64}
    assert asked["answers"]["settings"]["metric"] == "exact_match"


def test_early_stopping_on_a_metric_that_the_task_does_not_have_ends_before_the_training(tmp_path, upstream):
    assert not run(tmp_path, sections={"training": {"early_stopping": {"metric": "rouge_l"}}}).success
    assert trained(tmp_path) == []


def test_planted_codes_are_in_the_training_rows_alone_and_kept_with_the_adapter(tmp_path, upstream):
    run(tmp_path)
    assert run(tmp_path, sections={"training": {"canaries": {"count": 2, "repeats": [1, 3]}}}).success
    before, asked = trained(tmp_path)
    planted = read_rows(current(tmp_path).file("canaries.jsonl"))
    assert [one["repeats"] for one in planted] == [1, 1, 3, 3]
    assert Path(before["train"]).name == "train.jsonl"
    assert Path(asked["train"]).name == "train_and_canaries.jsonl"
    assert asked["validation"] == before["validation"]
