"""The accelerators of this machine: which there are, and which of them a program may have."""

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fine_tune_pipeline.resources.compute.inventory import AMPERE, Device
from fine_tune_pipeline.resources.compute.job import PlaceFailure

VISIBLE = "CUDA_VISIBLE_DEVICES"

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Held:
    """Devices that are locked for one program: `locks` are open files that the program inherits, so that they stay locked as long as it
    lives, even when the run that started it dies."""

    variables: dict[str, str]
    locks: tuple[int, ...]


@contextmanager
def held_devices(devices: Sequence[Device], *, count: int) -> Iterator[Held]:
    """So many devices that no other program of this machine holds; waits while there are fewer. On a machine without any, nothing.

    Raises:
        PlaceFailure: there will never be so many.
    """
    if not devices:
        yield Held({}, ())
        return
    numbers = visible(len(devices))
    if count > len(numbers):
        raise PlaceFailure(f"compute.place.gpus: got {count}, want at most the {len(numbers)} that this machine has")
    with ExitStack() as stack:
        taken = _take(numbers, count, stack)
        chosen = ",".join(numbers[place] for place, _ in taken)
        yield Held({VISIBLE: chosen}, tuple(lock.fileno() for _, lock in taken))


def usable_devices(devices: Sequence[Device]) -> tuple[Device, ...]:
    """Those that this process may use; one that is named by its UUID counts as the first."""
    return tuple(devices[int(name) if name.isdigit() else 0] for name in visible(len(devices))) if devices else ()


def visible(count: int) -> list[str]:
    """Names of the devices that this process may use: those that CUDA_VISIBLE_DEVICES names, or all of them by number."""
    named = os.environ.get(VISIBLE)
    return [str(number) for number in range(count)] if named is None else [name for name in named.split(",") if name]


def _take(numbers: Sequence[str], count: int, stack: ExitStack) -> list[tuple[int, IO[str]]]:
    taken: list[tuple[int, IO[str]]] = []
    while True:
        held = {place for place, _ in taken}
        for place in range(len(numbers)):
            if len(taken) < count and place not in held and (lock := _locked(numbers[place])) is not None:
                taken.append((place, stack.enter_context(lock)))
        if len(taken) == count:
            return sorted(taken, key=lambda one: one[0])
        time.sleep(POLL_SECONDS)


def _locked(name: str) -> IO[str] | None:
    # Not closed here: the lock lasts as long as the file is open.
    lock = (Path(tempfile.gettempdir()) / f"fine_tune_pipeline-gpu-{name}.lock").open("a", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def nvidia_devices() -> tuple[Device, ...]:
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
