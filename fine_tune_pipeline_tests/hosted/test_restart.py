"""A run of step 6 that ends in the middle, with the program as a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fine_tune_pipeline.guide.training.assets import adapter
from fine_tune_pipeline_tests.guide.technique.stand_ins import artifact_store
from fine_tune_pipeline_tests.hosted.stand_in import KEY, VARIABLE, provider_stand_in
from fine_tune_pipeline_tests.hosted.world import ASSETS, given_data, hosted_use_case, materialize, tuned_is_right
from fine_tune_pipeline_tests.waiting import wait_until

PROGRAM = "fine_tune_pipeline.programs.hosted.train"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "mlflow.db"


@pytest.mark.parametrize(("number", "left"), [(signal.SIGKILL, "running"), (signal.SIGINT, "cancelled")], ids=["killed", "cancelled"])
def test_a_killed_run_is_adopted_by_the_next_and_a_cancelled_one_cancels_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Path, number, left
):
    monkeypatch.setenv(VARIABLE, KEY)
    with provider_stand_in(answer=tuned_is_right) as provider:
        given_data(tmp_path)
        spec = hosted_use_case(tmp_path, provider)
        assert materialize(tmp_path, spec, runs=runs, only=ASSETS[:5]).success
        provider.held.set()
        run = started(tmp_path, provider.url, runs)
        wait_until(lambda: provider.jobs and provider.jobs[0]["status"] == "running", what="the job runs")
        run.send_signal(number)
        run.communicate()
        wait_until(lambda: not programs_of(tmp_path), what="the program is gone too")
        assert [job["status"] for job in provider.jobs] == [left]
        provider.held.clear()
        assert materialize(tmp_path, spec, runs=runs, only=(adapter,)).success
        assert len(provider.jobs) == (1 if left == "running" else 2)
        assert len(provider.requests("POST /v1/files$")) == 2
        assert artifact_store(tmp_path).current("triage", "adapter").metadata["adopted"] == (left == "running")


def started(folder: Path, url: str, runs: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "fine_tune_pipeline_tests.hosted.adapter_run", str(folder), url, str(runs)]
    return subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def programs_of(folder: Path) -> list[int]:
    """Programs of step 6 that still run for this folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        request = Path(command[-1]) if PROGRAM in command else None
        if request is not None and request.exists() and str(folder) in request.read_text(encoding="utf-8"):
            found.append(process.pid)
    return found
