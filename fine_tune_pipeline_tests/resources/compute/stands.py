"""A place as the contract sees it: how to make one, and what of a program would be left there."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import psutil

from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline.resources.compute.place import Place


class Stand(ABC):
    """One kind of place with its server, if it has one."""

    @abstractmethod
    def place(self, **settings: Any) -> Place:
        """A place for the test program, with a short grace."""

    @abstractmethod
    def left(self, folder: Path) -> list[str]:
        """Names of processes, containers, jobs and so on that are still there of programs with output in `folder`."""

    def close(self) -> None:  # noqa: B027 most have nothing to end
        """End the server, if there is one."""

    def hangs(self, folder: Path) -> bool:
        """Whether the program with output in `folder` has come to hang."""
        return (folder / "pids").exists()


class LocalStand(Stand):
    """This machine."""

    def place(self, **settings: Any) -> Place:
        return Local(grace_seconds=1, **settings)

    def left(self, folder: Path) -> list[str]:
        return processes_with(folder)


def processes_with(folder: Path) -> list[str]:
    """Processes of this machine that name a folder in their command."""
    return [f"process {process.pid}" for process in psutil.process_iter() if str(folder) in " ".join(_command_line(process))]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
