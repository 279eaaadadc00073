"""How programs are started, and how they end when nobody waits for them any more."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.programs.reporting import LEASE_SECONDS_VARIABLE, LEASE_VARIABLE
from fine_tune_pipeline.programs.requests import (
    Access,
    Hyperparameters,
    Placement,
    PredictJob,
    PredictRequest,
    PromptFormat,
    Technique,
    TrainRequest,
)
from fine_tune_pipeline.resources.compute.exchange import exchange, leased
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.compute.job import Job
from fine_tune_pipeline.resources.compute.live import whole_lines
from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline_tests.resources.compute.odd_program import OddRequest
from fine_tune_pipeline_tests.waiting import wait_until


def train(tmp_path: Path) -> TrainRequest:
    return TrainRequest(
        output=str(tmp_path), model="/m", train="/t.jsonl", validation="/v.jsonl", format=PromptFormat(), technique=Technique(type="lora"),
        hyperparameters=Hyperparameters(learning_rate=1e-3, epochs=1, effective_batch=8, max_length=64), placement=Placement(),
    )  # fmt: skip


def test_the_accelerate_launcher_starts_a_process_for_each_device(tmp_path: Path):
    script = tmp_path / "rank.py"
    script.write_text("import os, sys; open(sys.argv[1] + os.environ['RANK'] + os.environ['WORLD_SIZE'], 'w').close()", encoding="utf-8")
    command = Local(launcher="accelerate", processes=2).command(Job(request=train(tmp_path), folder=tmp_path), python=sys.executable)
    place = command.index("-m", 3)
    assert command[place:] == ["-m", "fine_tune_pipeline.programs.train", "--request", str(tmp_path / "request.json")]
    subprocess.run([*command[:place], str(script), f"{tmp_path}/process-"], capture_output=True, check=True, timeout=120)
    assert sorted(path.name for path in tmp_path.glob("process-*")) == ["process-02", "process-12"]


def test_a_program_that_cannot_be_parallel_is_started_once(tmp_path: Path):
    job = Job(request=OddRequest(output=str(tmp_path), do="answer"), folder=tmp_path)
    command = Local(launcher="accelerate", processes=2).command(job, python="python")
    assert command == ["python", "-m", OddRequest.module, "--request", str(tmp_path / "request.json")]


def test_the_name_of_a_job_is_the_same_for_each_try_of_the_same_work(tmp_path: Path):
    request = train(tmp_path)
    other = request.model_copy(update={"model": "/other"})
    names = [Job(request=one, folder=tmp_path).name for one in (request, request.model_copy(), other)]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("train-")


def test_a_request_knows_every_path_that_its_program_reads_or_writes(tmp_path: Path):
    job = PredictJob(name="a", prompts="/p.jsonl", output="/out/a.jsonl", format=PromptFormat(), adapter="/adapter")
    request = PredictRequest(output="/work", model="/m", jobs=(job, job.model_copy(update={"prompts": "/q.jsonl", "adapter": None})))
    assert [str(path) for path in request.paths(Access.READS)] == ["/m", "/p.jsonl", "/adapter", "/q.jsonl"]
    assert [str(path) for path in request.paths(Access.WRITES)] == ["/work", "/out/a.jsonl", "/out/a.jsonl"]


def test_a_program_whose_lease_nobody_renews_ends_by_itself_with_its_children(tmp_path: Path):
    with exchange(OddRequest(output=str(tmp_path), do="hang")) as folder:
        with leased(folder, 1.5) as variables:
            assert variables == {LEASE_VARIABLE: str(folder / "lease"), LEASE_SECONDS_VARIABLE: "1.5"}
            command = [sys.executable, "-m", OddRequest.module, "--request", str(folder / "request.json")]
            environment = {**variables, "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
            program = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)
            wait_until((tmp_path / "pids").exists, what="the program hangs")
            # Longer than the lease: it is renewed.
            with pytest.raises(subprocess.TimeoutExpired):
                program.wait(timeout=3)
        _, said = program.communicate(timeout=30)
    assert program.returncode == -9
    assert "nobody has renewed" in said
    child = int((tmp_path / "pids").read_text(encoding="utf-8").split()[1])
    wait_until(lambda: not alive(child), what="the child has ended")


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"


def test_what_another_request_left_in_the_folder_is_gone(tmp_path: Path):
    for do in ("answer", "fail"):
        with exchange(OddRequest(output=str(tmp_path), do=do)) as folder:
            assert [path.name for path in folder.iterdir()] == ["request.json"]
            assert json.loads((folder / "request.json").read_text(encoding="utf-8"))["do"] == do
            (folder / "messages.jsonl").write_text("x", encoding="utf-8")
        assert not folder.exists()


def test_lines_are_read_when_they_are_whole(tmp_path: Path):
    import threading

    file, closed, got = tmp_path / "messages.jsonl", threading.Event(), []
    file.write_bytes(b"one\ntw")
    lines = whole_lines(file, closed)
    got.append(next(lines))
    with file.open("ab") as stream:
        stream.write(b"o\n" + b"x" * 300_000 + b"\nnever ended")
    closed.set()
    got += lines
    assert got == [b"one", b"two", b"x" * 300_000]


def test_a_program_that_was_started_in_the_background_can_be_interrupted():
    code = (
        "import os, signal; from fine_tune_pipeline.programs.reporting import end_on_signals\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); end_on_signals(); os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"


GPU = Device(kind="cuda", name="L4", memory_bytes=24 << 30, bfloat16=True)
FOUR = Inventory(place="local", devices=(GPU,) * 4, cpu_cores=8, memory_bytes=64 << 30)
CPU = Inventory(place="local", devices=(GPU.model_copy(update={"kind": "cpu"}),), cpu_cores=8, memory_bytes=64 << 30)


@pytest.mark.parametrize(
    ("place", "found", "told"),
    [
        ({}, FOUR, (1, 1, 1)),
        ({"processes": 3, "parallel": "fsdp2"}, FOUR, (1, 1, 1)),
        ({"launcher": "accelerate"}, FOUR, (1, 1, 1)),
        ({"launcher": "accelerate", "gpus": 3}, FOUR, (3, 1, 3)),
        ({"launcher": "accelerate", "gpus": 4, "parallel": "fsdp2"}, FOUR, (4, 4, 4)),
        ({"launcher": "accelerate", "processes": 2, "parallel": "fsdp2"}, CPU, (2, 2, 1)),
    ],
)
def test_the_inventory_says_in_how_many_processes_a_training_runs(place: dict[str, Any], found: Inventory, told: tuple[int, ...]):
    shared = Local(**place).shared(found)
    assert (shared.processes, shared.parts, shared.trained_on) == told
    assert (shared == found) == (told[0] == 1)


def test_one_process_leaves_no_trace_in_what_is_written_of_an_inventory():
    assert Local().shared(FOUR).model_dump().keys() == {"place", "devices", "cpu_cores", "memory_bytes"}


def test_processes_on_a_cpu_share_its_memory_and_those_on_devices_do_not():
    assert CPU.model_copy(update={"processes": 2}).bytes_of_one == 12 << 30
    assert FOUR.model_copy(update={"processes": 2}).bytes_of_one == 24 << 30


def test_the_compute_plans_with_the_processes_that_its_place_starts():
    compute = PlacedCompute(place=Local(launcher="accelerate", processes=2, gpus=0, parallel="fsdp2"))
    assert (compute.inventory().processes, compute.inventory().parallel) == (2, "fsdp2")
    assert PlacedCompute(place=Local()).inventory().processes == 1
