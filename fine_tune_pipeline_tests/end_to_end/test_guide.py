"""The eight steps through the Dagster command line, on a tiny model."""

import json

import pytest

from fine_tune_pipeline.use_case import GUIDE
from fine_tune_pipeline_tests.end_to_end.guide_run import NAME, GuideRun, cpu_seconds, what_failed

ASSETS = [factory.__name__ for factory in GUIDE]
pytestmark = pytest.mark.timeout(900)
OBSERVED = {"endpoint", "production_traffic", "drift_report"}


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
