"""The two whole examples on the real base model, by the command line as their page says: a quarter of an hour each on two cores.

Which criteria a model of 270 M parameters meets is not asserted; that the run ends as its report says is."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.cli import main
from fine_tune_pipeline_tests.end_to_end.guide_run import DEFINITIONS, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@dataclass
class ExampleRun:
    """One example in places of its own."""

    name: str
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        return {
            "DAGSTER_HOME": str(self.folder / "dagster"),
            "FINE_TUNE_PIPELINE_HOME": str(self.folder / "home"),
            "FINE_TUNE_PIPELINE_USE_CASES": str(ROOT / "examples" / self.name / "defs.yaml"),
        }

    def materialize(self) -> "subprocess.CompletedProcess[str]":
        (self.folder / "dagster").mkdir()
        shutil.copy(ROOT / "dagster.yaml", self.folder / "dagster")
        command = ["asset", "materialize", "-m", DEFINITIONS, "--select", f'key:"{self.name}/*"']
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "dagster", *command],
            cwd=ROOT,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def report(self) -> dict[str, Any]:
        store = Store.at(str(self.folder / "home" / "store"))
        return dict(json.loads(store.current(self.name, "evaluation_report").file("report.json").read_text(encoding="utf-8")))


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExampleRun]:
    run = ExampleRun(request.param, tmp_path)
    yield run
    for name, value in run.variables.items():
        monkeypatch.setenv(name, value)
    main(["stop", run.name])


@pytest.mark.parametrize("example", ["earnings_summary"], indirect=True)
def test_earnings_become_json_that_beats_worked_examples_in_the_prompt(example: ExampleRun):
    done = example.materialize()
    report = example.report()
    assert report["n"] == 64
    verdicts = {each["criterion"]: each["verdict"] for each in report["verdicts"]}
    assert verdicts["field_f1 beats base_few_shot by 0.18"] == "met"
    assert (done.returncode == 0) == (report["outcome"]["verdict"] == "met")


@pytest.mark.parametrize("example", ["mortgage_support"], indirect=True)
def test_the_voice_of_a_brand_is_learned_and_a_missed_criterion_stops_the_model(example: ExampleRun):
    done = example.materialize()
    report = example.report()
    assert report["n"] == 72
    assert report["follows_style"] > report["means"]["base_few_shot"]["follows_style"]
    assert (done.returncode == 0) == (report["outcome"]["verdict"] == "met")
    registered = Store.at(str(example.folder / "home" / "store")).peek(example.name, "registered_model")
    assert (registered is not None) == (report["outcome"]["verdict"] == "met")
