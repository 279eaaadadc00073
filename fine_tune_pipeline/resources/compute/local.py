"""Programs on this machine, each in a process group of its own, so that nothing of it outlives the step."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import psutil
from pydantic import Field

from fine_tune_pipeline.programs import bfloat16_units
from fine_tune_pipeline.programs.reporting import PARENT_VARIABLE
from fine_tune_pipeline.resources.compute.devices import held_devices, nvidia_devices, usable_devices
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.compute.job import Ended, Job, signalled
from fine_tune_pipeline.resources.compute.output import Output
from fine_tune_pipeline.resources.compute.place import Place


class Local(Place):
    """This machine: a program runs in a process group of its own."""

    kind: Literal["local"] = "local"
    python: str = Field(default=sys.executable, description="Interpreter of the environment that has torch.")
    grace_seconds: float = Field(default=10, gt=0, description="Wait after SIGINT before SIGTERM, and again before SIGKILL.")
    gpus: int = Field(default=1, ge=0, description="Accelerators that one program is given, of those that no other program holds.")

    def execute(self, job: Job) -> Ended:
        ours, in_time = {PARENT_VARIABLE: str(os.getpid())}, True
        with held_devices(nvidia_devices() if job.on_device else (), count=self.gpus) as held:
            environment = {**os.environ, **job.environment, **held.variables, **ours}
            process = subprocess.Popen(
                self.command(job, python=self.python), env=environment, start_new_session=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=held.locks,
            )  # fmt: skip
            with _echo(process) as output, _group_ends(process, self.grace_seconds):
                try:
                    process.wait(timeout=self.timeout_seconds)
                except subprocess.TimeoutExpired:
                    in_time = False
        return Ended.by(signalled(process.returncode), output.tail()) if in_time else self.timed_out(output.tail())

    def inventory(self) -> Inventory:
        memory = psutil.virtual_memory().total
        devices = usable_devices(nvidia_devices()) or (cpu_device(memory),)
        return Inventory(place=self.kind, devices=devices, cpu_cores=_cores(), memory_bytes=memory)


@contextmanager
def _echo(process: subprocess.Popen[bytes]) -> Iterator[Output]:
    """Take the program's output as it comes."""
    output = Output()

    def pump() -> None:
        assert process.stdout is not None
        while chunk := process.stdout.read1(65536):  # type: ignore[attr-defined]
            output.take(chunk)

    thread = threading.Thread(target=pump, name="program-output", daemon=True)
    thread.start()
    try:
        yield output
    finally:
        # The group has ended, so nobody holds the pipe's other end.
        thread.join()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def _group_ends(process: subprocess.Popen[bytes], grace_seconds: float) -> Iterator[None]:
    """Whatever happens inside, no process of the group that this one leads is left afterwards."""
    try:
        yield
    finally:
        end_group(process.pid, grace_seconds)
        process.wait()


def end_group(group: int, grace_seconds: float) -> None:
    """SIGINT, SIGTERM, SIGKILL to a process group, each after `grace_seconds`, until nobody is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        members = _members(group)
        if not members:
            return
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        psutil.wait_procs(members, timeout=grace_seconds)


def _members(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_device(memory_bytes: int) -> Device:
    """The CPU of this machine, for programs that are given so much memory."""
    return Device(kind="cpu", name="CPU", memory_bytes=memory_bytes, bfloat16=bfloat16_units.here())
