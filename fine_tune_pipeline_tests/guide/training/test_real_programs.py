"""Steps 4 to 6 once with the real programs, on the tiny model."""

from dataclasses import replace

import dagster as dg
import pytest
from mlflow import MlflowClient

from fine_tune_pipeline.artifacts.examples import Asked, Example, read_rows
from fine_tune_pipeline.guide.base_model.assets import base_model
from fine_tune_pipeline.guide.environment.assets import environment
from fine_tune_pipeline.guide.technique.assets import retrieval_index, training_plan
from fine_tune_pipeline.guide.technique.plan import Plan
from fine_tune_pipeline.guide.training.assets import adapter
from fine_tune_pipeline.programs.models import is_peft_folder, weights_sha256
from fine_tune_pipeline.programs.prompts import plain_prompt
from fine_tune_pipeline.programs.requests import EmbedRequest
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline_tests.guide.technique.stand_ins import (
    answer,
    artifact_store,
    embed_words,
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


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_compared_answers_are_planned_tried_out_and_learned_from(tmp_path):
    def compared(copies: int, prefix: str) -> list[Example]:
        return [replace(row, rejected=answer("cash" if "card" in row.prompt else "card")) for row in examples(copies=copies, prefix=prefix)]

    store = artifact_store(tmp_path)
    single = examples(copies=1, prefix="single")[:3]
    kept_dataset(store, [*compared(4, "train"), *single], compared(1, "validation"), test=examples(copies=1, prefix="test"))
    kept_base_model(store, tiny_model(tmp_path / "model"))
    spec = use_case(tmp_path, training={"learning_rate": 0.003, "preference": {"type": "dpo", "beta": 0.2}})
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = dg.materialize(
        [training_plan(spec), environment(spec), adapter(spec), *upstream_assets("objective", "base_model", "dataset", "baselines")],
        resources={
            "store": store,
            "compute": PlacedCompute(),
            "tracking": ExperimentTracking(uri=uri, artifacts=str(tmp_path / "mlruns")),
        },
    )
    assert all(check.passed for check in result.get_asset_check_evaluations())
    plan, trained = (store.current("triage", name) for name in ("training_plan", "adapter"))
    assert plan.metadata["compared"] == "32 of 35 training rows have a rejected answer"
    assert {row["setting"]: row["value"] for row in plan.metadata["hyperparameters"]}["preference"] == "dpo, beta 0.2"
    found = trained.metadata
    assert (found["rows"], found["rows_without_comparison"]) == (32, 3)
    assert found["validation_loss_before"] == pytest.approx(0.6931, abs=1e-3)
    assert found["validation_reward_accuracy_after"] == 1
    assert abs(found["validation_reward_margin_before"]) < 0.01 < found["validation_reward_margin_after"]
    assert read_rows(trained.file("curve.jsonl"))[-1]["reward_margin"] > 0
    metrics = MlflowClient(tracking_uri=uri).get_run(found["mlflow_run_id"]).data.metrics
    assert {"reward_accuracy", "reward_margin", "validation_reward_accuracy"} <= metrics.keys()
    assert not list((tmp_path / "store").rglob("references.json"))


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_tokens_are_added_planned_tried_out_and_learned(tmp_path):
    def marked(copies: int, prefix: str) -> list[Example]:
        return [replace(row, prompt=f"<message>{row.prompt}") for row in examples(copies=copies, prefix=prefix)]

    store = artifact_store(tmp_path)
    kept_dataset(store, marked(4, "train"), marked(1, "validation"), test=marked(1, "test"))
    model = {"type": "local", "id": "tiny", "path": str(tiny_model(tmp_path / "model")), "licence": "Apache-2.0"}
    chosen = {"candidates": [model], "added_tokens": ["<message>", "<never>"]}
    spec = use_case(tmp_path, base_model=chosen, training={"learning_rate": 0.01, "effective_batch": 8})
    assets = [base_model(spec), training_plan(spec), environment(spec), adapter(spec)]
    result = dg.materialize(
        [*assets, *upstream_assets("objective", "dataset", "baselines")],
        resources={
            "store": store,
            "compute": PlacedCompute(),
            "tracking": ExperimentTracking(uri=f"sqlite:///{tmp_path / 'mlflow.db'}", artifacts=str(tmp_path / "mlruns")),
        },
    )
    assert all(check.passed for check in result.get_asset_check_evaluations())
    base, plan, tried, trained = (store.current("triage", name) for name in ("base_model", "training_plan", "environment", "adapter"))
    ids = tuple(base.json("base_model.json")["added_tokens"].values())
    assert Plan.read(plan.file("plan.json")).technique.added_tokens == ids
    assert {row["setting"]: row["value"] for row in plan.metadata["hyperparameters"]}["added_tokens"] == "2"
    assert tried.metadata["added_tokens_in_no_row"] == ["<never>"]
    assert trained.metadata["validation_loss_after"] < trained.metadata["validation_loss_before"]
    assert Plan.read(plan.file("plan.json")).chosen.trainable_parameters == trained.metadata["trainable_parameters"]
    assert trained.manifest.payload["what"]["technique"]["added_tokens"] == list(ids)


class WordVectors(PlacedCompute):
    """This machine, but embeddings count words: MiniLM takes seconds to start."""

    def run(self, context, request, result):
        return embed_words(request, self) if isinstance(request, EmbedRequest) else super().run(context, request, result)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_a_model_that_is_given_what_was_looked_up_is_planned_tried_out_and_trained(tmp_path):
    store = artifact_store(tmp_path)
    kept_dataset(store, examples(copies=4), examples(copies=1, prefix="validation"), test=examples(copies=1, prefix="test"))
    kept_base_model(store, tiny_model(tmp_path / "model"))
    sources = [{"type": "jsonl", "path": "messages.jsonl"}]
    dataset = {"sources": sources, "format": {"context": "retrieved", "passages": 1}}
    spec = use_case(tmp_path, dataset=dataset, training={"learning_rate": 0.01, "effective_batch": 8})
    assets = [retrieval_index(spec), training_plan(spec), environment(spec), adapter(spec)]
    result = dg.materialize(
        [*assets, *upstream_assets("objective", "base_model", "dataset", "baselines")],
        resources={
            "store": store,
            "compute": WordVectors(),
            "tracking": ExperimentTracking(uri=f"sqlite:///{tmp_path / 'mlflow.db'}", artifacts=str(tmp_path / "mlruns")),
        },
    )
    assert [check.description for check in result.get_asset_check_evaluations() if not check.passed] == []
    index, tried, trained = (store.current("triage", name) for name in ("retrieval_index", "environment", "adapter"))
    assert "retrieval_index" in trained.manifest.payload["upstream"]
    assert "dataset" not in trained.manifest.payload["upstream"]
    # A passage is another row with its answer, so a row of context has about twice the tokens of its own.
    row = read_rows(index.file("train.jsonl"))[0]
    own, given = (len(plain_prompt(asked)) for asked in (Asked(row["prompt"]), Asked.of(row)))
    assert given > 1.8 * own
    assert tried.metadata["over_long_rows"] == 0
    assert trained.metadata["validation_loss_after"] < trained.metadata["validation_loss_before"]
