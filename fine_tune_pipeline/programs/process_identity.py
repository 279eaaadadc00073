"""Who a process is, beyond its pid: pids are used again, after a restart of the machine even soon."""

import os
from pathlib import Path

import psutil

from fine_tune_pipeline.programs.requests import Contract

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ProcessIdentity(Contract):
    """A process of this machine since its last start. `started` is what the system says of its start, as text."""

    pid: int
    boot_id: str
    started: str

    @property
    def alive(self) -> bool:
        """Whether this very process runs; one that has ended and waits to be collected does not."""
        return identity_of(self.pid) == self


def identity_of(pid: int) -> ProcessIdentity | None:
    """The process with this pid now; None if there is none."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return ProcessIdentity(pid=pid, boot_id=_boot_id(), started=_started(process))
    except psutil.NoSuchProcess:
        return None


def own_identity() -> ProcessIdentity:
    """This process."""
    found = identity_of(os.getpid())
    assert found is not None
    return found


def _boot_id() -> str:
    if _BOOT_ID.exists():
        return _BOOT_ID.read_text(encoding="utf-8").strip()
    return f"{psutil.boot_time():.0f}"


def _started(process: psutil.Process) -> str:
    stat = Path(f"/proc/{process.pid}/stat")
    try:
        # Ticks since boot: unlike a time of day they do not move when the clock is set. The name before may hold spaces and brackets.
        return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            raise psutil.NoSuchProcess(process.pid) from None
        return f"{process.create_time():.2f}"
