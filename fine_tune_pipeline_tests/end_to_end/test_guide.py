"""The eight steps through the Dagster command line, on a tiny model: once for all tests of this file, since it takes a minute."""

import json
import time
from collections.abc import Iterator

import pytest

from fine_tune_pipeline.use_case import GUIDE
from fine_tune_pipeline_tests.end_to_end.guide_run import NAME, GuideRun

ASSETS = [factory.__name__ for factory in GUIDE]
OBSERVED = {"endpoint", "production_traffic", "drift_report"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuideRun]:
    made = GuideRun.at(tmp_path_factory.mktemp("guide"))
    yield made
    made.command("stop", NAME)


@pytest.fixture(scope="module")
def first_seconds(run: GuideRun) -> float:
    """The whole guide; how long it took."""
    started = time.monotonic()
    done = run.materialize()
    assert done.returncode == 0, done.stderr[-8000:]
    return time.monotonic() - started


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
        started = time.monotonic()
        done = run.materialize()
        assert done.returncode == 0, done.stderr[-8000:]
        assert [name for name in ASSETS if name not in OBSERVED and run.shown(name)["reused"] is not True] == []
        assert time.monotonic() - started < first_seconds / 2

    def test_one_changed_field_rebuilds_what_depends_on_it_and_says_which(self, run: GuideRun):
        run.write({"evaluation": {"human": {"pairs": 6}}})
        done = run.materialize()
        assert done.returncode == 0, done.stderr[-8000:]
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
