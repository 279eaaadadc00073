"""Programs on this machine, each in a process group of its own, so that nothing of it outlives the step."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
from pydantic import Field

from fine_tune_pipeline.programs.reporting import PARENT_VARIABLE
from fine_tune_pipeline.programs.requests import Request
from fine_tune_pipeline.resources.compute.base import Compute, ResultT
from fine_tune_pipeline.resources.compute.inventory import AMPERE, Device, Inventory
from fine_tune_pipeline.resources.compute.live import LiveFileReader
from fine_tune_pipeline.resources.program_environment import PROGRAM_ENVIRONMENT

TAIL_LINES = 50
"""Lines of the program's output that a failure shows."""

CPU_FACTS = Path("/proc/cpuinfo")

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
"""Linux's names of the instructions, on x86 and on Arm."""


class LocalCompute(Compute):
    """Runs a program in its own process group on this machine."""

    python: str = Field(default=sys.executable, description="Interpreter of the environment that has torch.")
    grace_seconds: float = Field(default=10, gt=0, description="Wait after SIGINT before SIGTERM, and again before SIGKILL.")

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type[ResultT]) -> ResultT:
        with tempfile.TemporaryDirectory(prefix="fine_tune_pipeline-") as scratch:
            folder = Path(scratch)
            request.write(folder / "request.json")
            reader = LiveFileReader(context, str(folder / "messages.jsonl"))
            injector = dg.PipesTempFileContextInjector()
            with dg.open_pipes_session(context.op_execution_context, context_injector=injector, message_reader=reader) as session:
                command = [self.python, "-m", request.module, "--request", str(folder / "request.json")]
                status, tail = self._run_group(command, session.get_bootstrap_env_vars())
        if status != 0:
            raise failure(request, status, tail)
        return result.read(Path(request.output) / "result.json")

    def inventory(self) -> Inventory:
        memory = psutil.virtual_memory().total
        gpus = _nvidia_devices()
        facts = CPU_FACTS.read_text(encoding="utf-8") if CPU_FACTS.exists() else ""
        cpu = Device(kind="cpu", name="CPU", memory_bytes=memory, bfloat16=bfloat16_units(facts))
        return Inventory(place="local", devices=gpus or (cpu,), cpu_cores=_cores(), memory_bytes=memory)

    def _run_group(self, command: list[str], variables: Mapping[str, str]) -> tuple[int, str]:
        ours = {PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        environment = {**PROGRAM_ENVIRONMENT, **os.environ, **variables, **ours}
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        with _echo(process) as tail, _group_ends(process.pid, self.grace_seconds):
            process.wait()
        return process.returncode, "".join(tail)


def failure(request: Request, status: int, tail: str) -> dg.Failure:
    """What a person needs to know when a program failed."""
    program = request.module.rsplit(".", 1)[-1]
    killed = f"killed by signal {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
    hint = ""
    if status == -signal.SIGKILL:
        hint = " SIGKILL that nobody sent is usually the system out of memory: lower training.max_length, or choose a smaller base model."
    return dg.Failure(
        description=f"program {program} {killed}.{hint} Last lines of its output:\n{tail}",
        metadata={"exit_code": status},
        allow_retries=False,
    )


@contextmanager
def _echo(process: subprocess.Popen[bytes]) -> Iterator[deque[str]]:
    """Pass the program's output on to our stderr as it comes, and keep the last lines."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def pump() -> None:
        assert process.stdout is not None
        pending = b""
        while chunk := process.stdout.read1(65536):  # type: ignore[attr-defined]
            sys.stderr.write(chunk.decode("utf-8", errors="replace"))
            sys.stderr.flush()
            pending = _keep_lines(pending + chunk, tail)
        if pending:
            tail.append(pending.decode("utf-8", errors="replace"))

    thread = threading.Thread(target=pump, name="program-output", daemon=True)
    thread.start()
    try:
        yield tail
    finally:
        # The group has ended, so nobody holds the pipe's other end.
        thread.join()
        assert process.stdout is not None
        process.stdout.close()


def _keep_lines(text: bytes, tail: deque[str]) -> bytes:
    """Append whole lines to `tail`, give back the rest; a progress bar's carriage returns overwrite within their line."""
    *lines, rest = text.split(b"\n")
    tail.extend(line.rsplit(b"\r", 1)[-1].decode("utf-8", errors="replace") + "\n" for line in lines)
    return rest.rsplit(b"\r", 1)[-1]


@contextmanager
def _group_ends(group: int, grace_seconds: float) -> Iterator[None]:
    """Whatever happens inside, no process of the group is left afterwards."""
    try:
        yield
    finally:
        end_group(group, grace_seconds)


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


def bfloat16_units(cpu_facts: str) -> bool:
    """Whether a CPU multiplies bfloat16 in hardware, by what Linux says of it; no for an empty text, as on other systems."""
    return not BFLOAT16_FLAGS.isdisjoint(cpu_facts.split())


def _nvidia_devices() -> tuple[Device, ...]:
    """GPUs by nvidia-smi, which is there wherever the driver is; none where it is not."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ()
    rows = [[cell.strip() for cell in line.rsplit(",", 2)] for line in lines if line.strip()]
    return tuple(
        Device(kind="cuda", name=name, memory_bytes=int(mib) << 20, bfloat16=float(capability) >= AMPERE) for name, mib, capability in rows
    )
