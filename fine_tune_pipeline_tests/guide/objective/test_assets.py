import json
from pathlib import Path

import dagster as dg
import pytest

from fine_tune_pipeline.guide.objective.assets import objective
from fine_tune_pipeline.guide.objective.task import UnreadableTask
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline_tests.guide.objective.use_cases import GOAL, SCHEMA, use_case


def materialize(spec: UseCaseSpec, folder: Path, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    store = ArtifactStore(url=str(folder / "store"), reviews=str(folder / "reviews"))
    return dg.materialize([objective(spec)], resources={"store": store}, raise_on_error=raise_on_error)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    return {name: value.value for name, value in result.asset_materializations_for_node("triage__objective")[0].metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def test_objective_is_kept_with_what_the_test_set_can_show(tmp_path: Path):
    result = materialize(use_case(tmp_path, held_out=200, evidence={"smallest_gain": 0.15}), tmp_path)
    shown = metadata(result)
    assert all(check.passed for check in checks(result).values())
    assert shown["goal"] == GOAL
    assert shown["held_out_rows"] == 200
    assert shown["smallest_detectable_gain"] == pytest.approx(0.1035, abs=1e-4)
    kept = json.loads((Path(str(shown["folder"])) / "objective.json").read_text(encoding="utf-8"))
    assert kept["task"] == {"type": "extraction", "labels": None, "schema": SCHEMA, "classes": ["card_lost", "refund", "login"]}
    assert kept["instruction"].startswith(GOAL)
    assert kept["criteria"][0]["judged by"] == "its lower bound"


def test_vague_goal_stops_everything_and_lists_what_is_missing(tmp_path: Path):
    spec = use_case(tmp_path, goal="better answers", success=[{"metric": "exact_match", "at_least": 70}])
    result = materialize(spec, tmp_path, raise_on_error=False)
    check = checks(result)["criteria_measurable"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert "objective.goal" in str(check.description)
    assert "write 0.7 for 70 %" in str(check.description)


def test_too_small_a_test_set_warns_without_stopping(tmp_path: Path):
    spec = use_case(tmp_path, held_out=40, success=[{"metric": "exact_match", "at_least": 0.6}], evidence={"smallest_gain": 0.05})
    check = checks(materialize(spec, tmp_path))["test_set_shows_gain"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "bring more held-out rows" in str(check.description)


def test_unknown_size_is_said_and_no_reason_to_stop(tmp_path: Path):
    result = materialize(use_case(tmp_path), tmp_path)
    assert "not known yet" in str(metadata(result)["held_out_rows"])
    assert checks(result)["test_set_shows_gain"].passed


@pytest.mark.parametrize(("rows", "said"), [(0, "have no row"), (None, "is not there")])
def test_empty_or_missing_held_out_file_stops(tmp_path: Path, rows: int | None, said: str):
    spec = use_case(tmp_path, held_out=rows or 0)
    if rows is None:
        (tmp_path / "held_out.jsonl").unlink()
    check = checks(materialize(spec, tmp_path, raise_on_error=False))["criteria_measurable"]
    assert not check.passed
    assert said in str(check.description)


def test_same_objective_is_reused_and_a_changed_schema_is_not(tmp_path: Path):
    spec = use_case(tmp_path, held_out=200)
    assert not metadata(materialize(spec, tmp_path))["reused"]
    assert metadata(materialize(spec, tmp_path))["reused"]
    changed = {**SCHEMA, "properties": {**SCHEMA["properties"], "mood": {"type": "string"}}}
    shown = metadata(materialize(use_case(tmp_path, held_out=200, schema=changed), tmp_path))
    assert not shown["reused"]
    assert shown["changed"] == "files_sha256.objective.task.schema"


def test_missing_schema_raises_its_own_error(tmp_path: Path):
    spec = use_case(tmp_path)
    (tmp_path / "schema.json").unlink()
    with pytest.raises(UnreadableTask):
        materialize(spec, tmp_path)


def test_limits_are_listed_with_who_checks_them(tmp_path: Path):
    spec = use_case(tmp_path, held_out=200, limits={"p95_latency_seconds": 2, "memory_gib": 6})
    table = metadata(materialize(spec, tmp_path))["criteria"]
    assert table
    kept = json.loads((next((tmp_path / "store").glob("triage/objective/*/objective.json"))).read_text(encoding="utf-8"))
    assert [row["judged by"] for row in kept["criteria"] if row["kind"] == "limit"] == ["the endpoint", "the evaluation"]
