"""The eight steps through the Dagster command line, on a tiny model."""

import json
from pathlib import Path

import pytest

from fine_tune_pipeline.use_case import GUIDE
from fine_tune_pipeline_tests.end_to_end.guide_run import NAME, GuideRun, cpu_seconds, what_failed

ASSETS = [factory.__name__ for factory in GUIDE]
pytestmark = pytest.mark.timeout(900)
OBSERVED = {"endpoint", "production_traffic", "drift_report"}


def tree(folder: Path) -> dict[str, int]:
    """Every file and when it was changed; the endpoint's own log may grow."""
    files = [path for path in folder.rglob("*") if path.is_file() and "serving" not in path.parts]
    return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.mark.usefixtures("first_seconds")
class TestGuide:
    """In the order of the file: each test leaves the use case as it found it, or says what it changed."""

    def test_every_asset_is_made(self, run: GuideRun):
        assert [name for name in ASSETS if run.store.peek(NAME, name) is None] == []

    def test_the_tuned_model_is_right_where_the_base_was_not(self, run: GuideRun):
        means = run.store.current(NAME, "evaluation_report").json("report.json")["means"]
        assert means["fine_tuned"]["accuracy"] >= 0.9
        assert means["base_few_shot"]["accuracy"] <= 0.5

    def test_the_endpoint_answers_as_evaluated_and_outlives_the_run(self, run: GuideRun, capsys: pytest.CaptureFixture[str]):
        assert run.shown("endpoint")["endpoint_equals_evaluation"] == 1.0
        assert run.command("status", NAME, "--json") == 0
        assert json.loads(capsys.readouterr().out)["model"] == f"{NAME}-v1"

    def test_running_again_reuses_everything_visibly_and_much_faster(self, run: GuideRun, first_seconds: float):
        before = cpu_seconds()
        done = run.materialize()
        assert done.returncode == 0, what_failed(done)
        assert [name for name in ASSETS if name not in OBSERVED and run.shown(name)["reused"] is not True] == []
        assert cpu_seconds() - before < first_seconds / 2

    def test_a_plan_says_beforehand_what_is_reused_and_touches_nothing(self, run: GuideRun, capsys: pytest.CaptureFixture[str]):
        before = tree(run.folder / "state")
        assert run.command("plan", NAME, "--json") == 0
        does = {row["asset"]: row["does"] for row in json.loads(capsys.readouterr().out)["assets"]}
        assert does == {name: "look" if name in OBSERVED else "reuse" for name in ASSETS}
        run.write({"evaluation": {"human": {"pairs": 6}}})
        assert run.command("plan", NAME, "--json") == 0
        planned = {row["asset"]: row for row in json.loads(capsys.readouterr().out)["assets"]}
        built = {name: row["why"] for name, row in planned.items() if row["does"] == "build"}
        assert built == {
            "human_evaluation": "because of evaluation.human.pairs",
            "registered_model": "because human_evaluation is built anew",
            "endpoint": "because registered_model is built anew",
            "drift_report": "because endpoint is built anew",
        }
        assert planned["human_evaluation"]["basis"] == "as the last time"
        assert tree(run.folder / "state") == before

    def test_one_changed_field_rebuilds_what_depends_on_it_and_says_which(self, run: GuideRun):
        run.write({"evaluation": {"human": {"pairs": 6}}})
        done = run.materialize()
        assert done.returncode == 0, what_failed(done)
        rebuilt = {name: run.shown(name).get("changed") for name in ASSETS if name not in OBSERVED and not run.shown(name)["reused"]}
        assert rebuilt == {"human_evaluation": "evaluation.human.pairs", "registered_model": "upstream.human_evaluation"}

    def test_a_failed_blocking_check_exits_1_and_nothing_is_deployed(self, run: GuideRun):
        before = run.store.current(NAME, "endpoint").fingerprint
        run.write({"objective": {"success": [{"metric": "accuracy", "beats": "base_few_shot", "by": 0.99}]}})
        done = run.materialize()
        assert done.returncode == 1
        assert "meets_objective" in done.stderr
        assert run.store.current(NAME, "endpoint").fingerprint == before
        run.write({})
