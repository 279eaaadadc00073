"""Stands in for SkyPilot's command `sky` 0.14: the commands that the place `cloud` uses, with machines that are processes of this one.

What it prints and how it ends is as SkyPilot's own was seen to do; its state lies in the folder FAKE_SKY.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import yaml

STATE = Path(os.environ["FAKE_SKY"])
TABLE = """Considered resources (1 node):
---------------------------------------------------------------------------------
 INFRA                INSTANCE     vCPUs   Mem(GB)   GPUS    COST ($)   CHOSEN
---------------------------------------------------------------------------------
 AWS (us-east-1)      g6.xlarge    4       16        L4:1    0.75       \x1b[32m   ✔\x1b[0m
 GCP (us-central1)    g2-4         4       16        L4:1    0.85
---------------------------------------------------------------------------------
"""
ENDED = ("SUCCEEDED", "CANCELLED", "FAILED")


def main() -> None:
    match sys.argv[1:]:
        case ["launch", "--dryrun", "--yes", *rest]:
            task = read(rest)
            if task["resources"].get("max_hourly_cost", 9) < 0.75:
                sys.exit("sky.exceptions.ResourcesUnavailableError: Catalog does not contain any instances satisfying the request")
            print(f"YAML to run: {rest[-1]}\n{TABLE}")
        case ["jobs", "launch", "--yes", "--detach-run", "--name", name, *rest]:
            launch(name, read(rest))
        case ["jobs", "queue", "--all", "--output", "json"]:
            if not list(STATE.glob("*.json")):
                sys.exit("sky.exceptions.ClusterNotUpError: No in-progress managed jobs.")
            print(json.dumps([record(path) for path in sorted(STATE.glob("*.json"))], indent=2))
        case ["jobs", "cancel", "--yes", number]:
            told(int(number), "cancel")
        case ["jobs", "logs", "--follow", "--tail", "0", number]:
            follow(int(number))
        case ["machine", number]:
            machine(int(number))
        case ["preempt", number]:
            told(int(number), "preempt")
        case other:
            sys.exit(f"Error: No such command {other}")


def read(arguments: list[str]) -> dict:
    task = yaml.safe_load(Path(arguments[-1]).read_text(encoding="utf-8"))
    for name in arguments[1:-1:2]:
        task["secrets"][name] = os.environ[name]
    missing = [name for name, value in task.get("secrets", {}).items() if value is None]
    if missing:
        sys.exit(f"ValueError: Secret variable(s) {missing} are null")
    return task


def record(path: Path) -> dict:
    while True:
        text = path.read_text(encoding="utf-8")
        if text:
            return json.loads(text)


def write(number: int, **changes: object) -> None:
    path = STATE / f"{number}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({**(record(path) if path.exists() else {}), **changes}), encoding="utf-8")
    os.replace(partial, path)


def launch(name: str, task: dict) -> None:
    STATE.mkdir(exist_ok=True)
    number = len(list(STATE.glob("*.json"))) + 1
    while True:
        try:
            (STATE / f"{number}.taken").touch(exist_ok=False)
            break
        except FileExistsError:
            number += 1
    (STATE / f"{number}.task").write_text(json.dumps(task), encoding="utf-8")
    write(number, job_id=number, job_name=name, status="STARTING", failure_reason=None, details=None)
    with (STATE / f"{number}.controller").open("w") as log:
        subprocess.Popen([sys.executable, __file__, "machine", str(number)], start_new_session=True, stdout=log, stderr=log)


def told(number: int, what: str) -> None:
    (STATE / f"{number}.{what}").touch()


def machine(number: int) -> None:
    """The controller of one job: starts its machine, another when that is taken away, and gives it back at the end."""
    task = json.loads((STATE / f"{number}.task").read_text(encoding="utf-8"))
    while True:
        home = STATE / f"home-{number}-{time.monotonic_ns()}"
        home.mkdir()
        variables = {**os.environ, "TMPDIR": str(home), **task["envs"], **task.get("secrets", {})}
        with (STATE / f"{number}.log").open("ab") as log:
            process = subprocess.Popen(["bash", "-c", task["run"]], cwd=home, env=variables, stdout=log, stderr=log, start_new_session=True)
        write(number, status="RUNNING")
        ended = attended(number, process)
        if ended != "RECOVERING":
            write(number, status=ended)
            return


def attended(number: int, process: subprocess.Popen) -> str:
    while process.poll() is None:
        if (STATE / f"{number}.cancel").exists():
            write(number, status="CANCELLING")
            kill(process)
            return "CANCELLED"
        if (STATE / f"{number}.preempt").exists():
            (STATE / f"{number}.preempt").unlink()
            write(number, status="RECOVERING")
            kill(process)
            return "RECOVERING"
        threading.Event().wait(0.05)
    return "FAILED" if process.returncode else "SUCCEEDED"


def kill(process: subprocess.Popen) -> None:
    """A machine that goes away takes all its processes with it."""
    import psutil

    tree = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    for pid in tree:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    psutil.wait_procs([psutil.Process(pid) for pid in tree if psutil.pid_exists(pid)], timeout=10)


def follow(number: int) -> None:
    log = STATE / f"{number}.log"
    place = 0
    while True:
        status = record(STATE / f"{number}.json")["status"]
        if log.exists():
            with log.open("rb") as file:
                file.seek(place)
                while chunk := file.read(65536):
                    sys.stdout.buffer.write(chunk)
                    place += len(chunk)
            sys.stdout.flush()
        if status in ENDED:
            return
        threading.Event().wait(0.05)


main()
