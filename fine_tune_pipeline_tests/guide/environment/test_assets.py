import base64
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import Example, read_rows
from fine_tune_pipeline.guide.environment.assets import environment
from fine_tune_pipeline.guide.environment.preflight import read_preflight
from fine_tune_pipeline.guide.technique.assets import training_plan
from fine_tune_pipeline.programs import preflight
from fine_tune_pipeline.programs.machine import Memory
from fine_tune_pipeline.programs.preflight_requests import PreflightRequest
from fine_tune_pipeline.programs.requests import Request
from fine_tune_pipeline.resources.compute.base import ResultT
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline_tests.guide.technique.stand_ins import (
    RuleCompute,
    answer,
    artifact_store,
    examples,
    kept_base_model,
    kept_dataset,
    upstream_assets,
    use_case,
)
from fine_tune_pipeline_tests.small_training import Recorder
from fine_tune_pipeline_tests.tiny import tiny_model


@pytest.fixture
def upstream(tmp_path: Path) -> None:
    store = artifact_store(tmp_path)
    kept_dataset(store, examples(copies=4), examples(copies=2, prefix="validation"))
    kept_base_model(store, tiny_model(tmp_path / "model"))


def run(
    folder: Path,
    *,
    sections: dict[str, Any] | None = None,
    compute: type[RuleCompute] = RuleCompute,
    **settings: Any,
) -> dg.ExecuteInProcessResult:
    spec = use_case(folder, **(sections or {}))
    return dg.materialize(
        [training_plan(spec), environment(spec), *upstream_assets("objective", "base_model", "dataset", "baselines")],
        resources={
            "store": artifact_store(folder),
            "compute": compute(record=str(folder / "record"), **settings),
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


class RealPreflight(RuleCompute):
    """The program itself, in this process, on one thread and without a tracking server."""

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type[ResultT]) -> ResultT:
        if not isinstance(request, PreflightRequest):
            return super().run(context, request, result)
        alone = request.placement.model_copy(update={"threads": 1})
        answer = preflight.run(request.model_copy(update={"tracking": None, "placement": alone}), Recorder())
        assert isinstance(answer, result)
        return answer


def test_what_is_learned_and_what_is_cut_is_shown_of_real_rows(tmp_path):
    store = artifact_store(tmp_path)
    rows = [*examples(copies=2), Example("long-1", "my card " * 40, answer("card")), Example("long-2", "my cash " * 60, answer("cash"))]
    kept_dataset(store, rows, examples(copies=1, prefix="validation"))
    kept_base_model(store, tiny_model(tmp_path / "model"))
    sections = {"training": {"over_long_limit": 0.2, "max_length": 64, "effective_batch": 4}}
    result = run(tmp_path, sections=sections, compute=RealPreflight)
    assert check(result).passed, check(result).description
    artifact = store.current("triage", "environment")
    tokens = {row.id: row.tokens for row in read_preflight(artifact).parts[0].long_rows}
    assert read_rows(artifact.file("over_long.jsonl")) == [
        {"id": id, "part": "train", "tokens": tokens[id], "max_length": 64} for id in ("long-1", "long-2")
    ]
    [event] = result.asset_materializations_for_node("triage__environment")
    picture = event.metadata["what_is_learned"].value
    encoded = re.fullmatch(r"!\[.*\]\(data:image/svg\+xml;base64,(.*)\)", picture)
    assert encoded is not None
    drawn = base64.b64decode(encoded[1]).decode()
    assert drawn.count("tokens are learned") == 3
    assert '<tspan class="special learned">&lt;eos&gt;</tspan>' in drawn
    page = artifact.file("texts.html").read_text(encoding="utf-8")
    assert page.count('<span class="special learned">&lt;eos&gt;</span>') == 3
    assert "⟦ {&#34;intent&#34;" not in page, "the page has colours instead"
    [train, validation, test] = artifact.metadata["labelled"]
    assert train["share"] == pytest.approx(train["labelled"] / train["tokens"], abs=1e-4)
    assert artifact.metadata["labelled_share_train"] == train["labelled"] / train["tokens"]
    assert train["lowest"].startswith("long-2 (")
    assert (validation["part"], test["part"]) == ("validation", "test")
    assert {row["part"]: row["ids"] for row in artifact.metadata["truncation"]} == {
        "train": "long-1, long-2", "validation": "none", "test": "none",
    }  # fmt: skip


class InParts(RealPreflight):
    """The same place with two processes that hold a part of the model each."""

    def inventory(self) -> Inventory:
        return super().inventory().model_copy(update={"processes": 2, "parallel": "fsdp2"})


def test_a_model_in_parts_passes_without_a_trial_and_the_asset_says_so(tmp_path, upstream):
    found = run(tmp_path, compute=InParts, sections={"environment": {"disk_free_gib": 0.1}})
    assert check(found).passed, check(found).description
    assert (check(found).description or "").startswith("trial: not run: the model lies in parts (fsdp2)")
    metadata = artifact_store(tmp_path).current("triage", "environment").metadata
    assert metadata["trial"].startswith("not run: ")
    assert not {"step_seconds", "tokens_per_second", "loss", "peak_memory_gib"} & metadata.keys(), "nothing was measured"
    assert (metadata["rows"], metadata["predicted_minutes"]) == (48, None)
    assert metadata["labelled_share_train"] > 0


def test_without_a_trial_the_forecast_must_fit_into_what_is_free(tmp_path, upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "memory", lambda device: Memory(total=24 << 30, available=1 << 30))
    found = check(run(tmp_path, compute=InParts, sections={"environment": {"disk_free_gib": 0.1}}))
    assert not found.passed
    assert "memory: the plan forecasts" in (found.description or "")
    assert "1.00 GiB are free on" in (found.description or "")


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
