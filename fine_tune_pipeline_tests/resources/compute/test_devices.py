import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.parts_requests import PartsRequest
from fine_tune_pipeline.programs.requests import Placement, PredictRequest
from fine_tune_pipeline.resources.compute.devices import VISIBLE, held_devices, usable_devices
from fine_tune_pipeline.resources.compute.inventory import Device
from fine_tune_pipeline.resources.compute.job import Job, PlaceFailure
from fine_tune_pipeline_tests.waiting import wait_until

FOUR = tuple(Device(kind="cuda", name=f"GPU {number}", memory_bytes=1 << 30, bfloat16=True) for number in range(4))


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)


def test_programs_at_the_same_time_get_different_devices():
    with held_devices(FOUR, count=1) as one, held_devices(FOUR, count=2) as two, held_devices(FOUR, count=1) as three:
        assert [held.variables[VISIBLE] for held in (one, two, three)] == ["0", "1,2", "3"]
    with held_devices(FOUR, count=4) as all_of_them:
        assert all_of_them.variables[VISIBLE] == "0,1,2,3"


def test_a_program_waits_until_a_device_is_free():
    got: list[str] = []

    def wait_for_one() -> None:
        with held_devices(FOUR[:1], count=1) as held:
            got.append(held.variables[VISIBLE])

    with held_devices(FOUR[:1], count=1):
        thread = threading.Thread(target=wait_for_one)
        thread.start()
        thread.join(timeout=1)
        assert thread.is_alive()
        assert got == []
    wait_until(lambda: got == ["0"], what="the waiting program has the device")
    thread.join()


def test_a_device_stays_held_as_long_as_the_program_lives_even_without_its_starter(tmp_path: Path):
    with held_devices(FOUR[:1], count=1) as held:
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        program = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=held.locks)
    lock = (tmp_path / "fine_tune_pipeline-gpu-0.lock").open("a")
    with lock, program:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        program.communicate()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_only_devices_that_the_environment_leaves_visible_are_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VISIBLE, "2,3")
    assert [device.name for device in usable_devices(FOUR)] == ["GPU 2", "GPU 3"]
    with held_devices(FOUR, count=1) as held:
        assert held.variables == {VISIBLE: "2"}


def test_more_devices_than_there_are_is_refused_at_once():
    with pytest.raises(PlaceFailure, match=r"gpus: got 5, want at most the 4 that this machine has"), held_devices(FOUR, count=5):
        pass


def test_a_machine_without_devices_needs_no_lock(tmp_path: Path):
    with held_devices((), count=1) as held:
        assert held.variables == {}
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("device", "on_device"), [("cpu", False), ("cuda", True), ("cuda:1", True)])
def test_a_program_holds_a_device_only_if_it_computes_on_one(tmp_path: Path, device: str, on_device: bool):
    request = PredictRequest(output=str(tmp_path), model="model", jobs=(), device=device)
    assert Job(request=request, folder=tmp_path).on_device == on_device
    assert Placement(device=device).device == device
    parts = PartsRequest(output=str(tmp_path), function="f", settings={}, source="s", folder="f")
    assert not Job(request=parts, folder=tmp_path).on_device
