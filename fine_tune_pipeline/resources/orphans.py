"""Runs whose process died without a word: found by pid at the next start, ended, and their pool slots freed.

After kill -9 of a command-line run Dagster leaves it STARTED and its slot taken for ever; `free_slots_after_run_end_seconds` looks at
ended runs only.
"""

import os
import socket
from dataclasses import dataclass

import dagster as dg
import psutil

TAG = "fine_tune_pipeline/process"


@dataclass(frozen=True)
class Process:
    """A process, told apart from a later one that has its pid again: by host, boot and start."""

    host: str
    booted: int
    pid: int
    started: int

    @classmethod
    def here(cls) -> "Process":
        return cls(host=socket.gethostname(), booted=int(psutil.boot_time()), pid=os.getpid(), started=int(psutil.Process().create_time()))

    @classmethod
    def parse(cls, text: str) -> "Process":
        host, booted, pid, started = text.rsplit(":", 3)
        return cls(host=host, booted=int(booted), pid=int(pid), started=int(started))

    def __str__(self) -> str:
        return f"{self.host}:{self.booted}:{self.pid}:{self.started}"

    def is_gone(self) -> bool:
        """Whether it surely runs no more; of another host nothing is known."""
        if self.host != socket.gethostname():
            return False
        # Boot time is derived from two clocks and moves by a second or two.
        if abs(self.booted - int(psutil.boot_time())) > 5:
            return True
        try:
            process = psutil.Process(self.pid)
            return abs(int(process.create_time()) - self.started) > 5 or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


def claim(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Write into the run which process executes it."""
    instance.add_run_tags(run.run_id, {TAG: str(Process.here())})


def end_orphans(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs failed whose process is gone, free their slots; gives back their ids."""
    active = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    ended = []
    for run in instance.get_runs(filters=active):
        process = run.tags.get(TAG)
        if process is not None and Process.parse(process).is_gone():
            instance.report_run_failed(run, f"The process that executed this run ({process}) is gone without a word, as after kill -9.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended.append(run.run_id)
    return ended
