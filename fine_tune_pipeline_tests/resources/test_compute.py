import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

import fine_tune_pipeline
from fine_tune_pipeline.programs.bfloat16_units import bfloat16_units
from fine_tune_pipeline.programs.process_identity import ProcessIdentity, own_identity
from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline.resources.orphans import HOST_TAG, PROCESS_TAG, is_orphan
from fine_tune_pipeline_tests.resources.stubborn_defs import definitions
from fine_tune_pipeline_tests.waiting import wait_until

ROOT = Path(fine_tune_pipeline.__file__).parents[1]
DEFS = "fine_tune_pipeline_tests.resources.stubborn_defs"


def materialized(folder: Path, do: str, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    monkeypatch.setenv("STUBBORN_OUTPUT", str(folder))
    monkeypatch.setenv("STUBBORN_DO", do)
    defs = definitions(folder)
    return defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, raise_on_error=False, asset_selection=[dg.AssetKey("stubborn")]
    )


def test_a_program_answers_and_its_numbers_are_seen_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialized(tmp_path, "answer", monkeypatch, instance)
        assert result.asset_materializations_for_node("stubborn")[0].metadata["said"].value == "done"
        observed = instance.fetch_observations(dg.AssetKey("stubborn"), limit=10).records
    last = observed[0].asset_observation
    assert last is not None
    assert {name: value.value for name, value in last.metadata.items()} == {
        "live/step": 3,
        "live/steps": 3,
        "live/loss": 0.3333,
    }


def test_a_failure_shows_exit_code_and_the_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialized(tmp_path, "fail", monkeypatch, instance)
    data = result.filter_events(lambda event: event.is_step_failure)[0].step_failure_data
    assert data.user_failure_data is not None
    said = data.user_failure_data.description or ""
    assert "program stubborn ended with exit code 1" in said
    assert said.index("line before the end") < said.index("the reason of the failure")


def test_the_inventory_is_this_machine():
    inventory = Local().inventory()
    assert inventory.cpu_cores == len(os.sched_getaffinity(0))
    assert inventory.memory_bytes == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("facts", "units"),
    [
        ("flags\t\t: fpu sse2 avx2 avx512_bf16 avx512_vnni", True),
        ("flags : avx512f amx_bf16 amx_tile", True),
        ("Features : fp asimd i8mm bf16 dgh", True),
        ("flags : fpu avx2 avx512f avx512_bf16x", False),
        ("", False),
    ],
)
def test_a_cpu_has_bfloat16_units_if_linux_says_so(facts, units):
    assert bfloat16_units(facts) == units


def test_gpus_are_those_that_nvidia_smi_lists_with_bfloat16_from_ampere_on(tmp_path, monkeypatch):
    listed = "Tesla T4, 15360, 7.5\nNVIDIA H100 80GB HBM3, 81559, 9.0"
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' '{listed}'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    seen = Local().inventory().devices
    assert [(device.name, device.memory_bytes >> 20, device.bfloat16) for device in seen] == [
        ("Tesla T4", 15360, False),
        ("NVIDIA H100 80GB HBM3", 81559, True),
    ]


class CommandLine:
    """`dagster asset materialize` on an instance of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        shutil.copy(ROOT / "dagster.yaml", self.home)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, do: str, *, asset: str = "stubborn") -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-m", "dagster", "asset", "materialize", "-m", DEFS, "--select", asset]
        variables = {"DAGSTER_HOME": str(self.home), "STUBBORN_OUTPUT": str(self.folder), "STUBBORN_DO": do}
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **variables},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def hanging(self) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
        """A run whose program and grandchild are up and do not want to end."""
        process, pids = self.start("hang"), self.folder / "pids"
        wait_until(lambda: pids.exists() and pids.read_text(encoding="utf-8").count(" ") == 1, what="the program's pids")
        return process, [psutil.Process(int(pid)) for pid in pids.read_text(encoding="utf-8").split()]

    def clean_up(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def command_line(tmp_path: Path) -> Iterator[CommandLine]:
    line = CommandLine(tmp_path)
    yield line
    line.clean_up()


def gone(processes: list[psutil.Process]) -> bool:
    return all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_frees_the_gpu(command_line: CommandLine, number: signal.Signals):
    process, program = command_line.hanging()
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0, out
    assert gone(program)
    second = command_line.start("answer")
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 0, out


def test_kill_minus_9_of_the_run_leaves_no_process_and_the_next_run_frees_its_slot(command_line: CommandLine):
    process, program = command_line.hanging()
    process.kill()
    process.wait()
    wait_until(lambda: gone(program), what="the watchdog ends the program's group")
    second = command_line.start("answer")
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 0, out
    assert "had lost its process; marked failed" in out
    with dg.DagsterInstance.from_config(str(command_line.home)) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


def test_only_a_run_of_this_host_whose_process_is_gone_is_an_orphan():
    here, host = own_identity(), socket.gethostname()

    def run(host: str, process: ProcessIdentity) -> dg.DagsterRun:
        return dg.DagsterRun(job_name="job", tags={HOST_TAG: host, PROCESS_TAG: process.model_dump_json()})

    another_start = here.model_copy(update={"started": "1"})
    assert [is_orphan(run(host, here)), is_orphan(run(host, another_start)), is_orphan(run("other", another_start))] == [False, True, False]
    assert not is_orphan(dg.DagsterRun(job_name="job"))


def test_a_run_of_another_use_case_waits_for_the_gpu(command_line: CommandLine):
    first, program = command_line.hanging()
    second = command_line.start("answer", asset="another")
    with dg.DagsterInstance.from_config(str(command_line.home)) as instance:
        slots = instance.event_log_storage.get_concurrency_info
        wait_until(lambda: slots("gpu").pending_step_count == 1, what="it waits for the slot")
    assert second.poll() is None
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert gone(program)
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 0, out
