"""Who listens on a port of this machine, for people who wonder why they can't have it."""

from pathlib import Path

import psutil

SERVER = "fine_tune_pipeline.programs.serve"
NOBODY_SEEN = "somebody whom the system does not show us"


def holder_of(port: int) -> str:
    """Name and pid, never the command line of a stranger, which may hold secrets; of an endpoint the folder of its state, too."""
    try:
        found = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return NOBODY_SEEN
    listening = [one for one in found if one.status == psutil.CONN_LISTEN]
    pids = sorted({one.pid for one in listening if one.pid and one.laddr and one.laddr.port == port})
    return " and ".join(map(_shown, pids)) or NOBODY_SEEN


def _shown(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        name, command = process.name(), process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return f"process {pid}"
    if SERVER not in command or "--request" not in command[:-1]:
        return f"{name} (process {pid})"
    folder = Path(command[command.index("--request") + 1]).parent
    return f"the endpoint of {folder.name} (process {pid}, state in {folder})"
