"""Whoever ends a command in the foreground ends all that it started."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import fine_tune_pipeline
from fine_tune_pipeline_tests.waiting import wait_until

ROOT = Path(fine_tune_pipeline.__file__).parents[1]

STARTER = """
import sys
from pathlib import Path
from fine_tune_pipeline.foreground import INTERRUPTED, running, signals_interrupt

try:
    with signals_interrupt(), running([sys.executable, "-c", sys.argv[1]], grace_seconds=float(sys.argv[2])) as child:
        child.wait()
except KeyboardInterrupt:
    sys.exit(INTERRUPTED)
"""

CHILD = """
import json, os, signal, subprocess, sys
if {stubborn}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
own = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
partial = {path!r} + ".partial"
open(partial, "w").write(json.dumps([os.getpid(), own.pid]))
os.rename(partial, {path!r})
if not {stubborn}:
    def end(number, frame):
        own.terminate()
        own.wait()
        sys.exit()
    signal.signal(signal.SIGTERM, end)
while True:
    signal.pause()
"""


def ignore_ctrl_c() -> None:
    """What a shell does for a command in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("prepare", [None, ignore_ctrl_c], ids=["foreground", "background"])
@pytest.mark.parametrize("stubborn", [False, True], ids=["obedient", "stubborn"])
def test_a_signal_ends_the_command_and_what_it_started(
    number: signal.Signals, prepare: Callable[[], None] | None, stubborn: bool, tmp_path: Path
):
    path = tmp_path / "pids.json"
    code = CHILD.format(stubborn=stubborn, path=str(path))
    process = subprocess.Popen([sys.executable, "-c", STARTER, code, "0.5" if stubborn else "30"], preexec_fn=prepare)
    wait_until(path.exists, what="the child's start")
    pids = json.loads(path.read_text(encoding="utf-8"))
    process.send_signal(number)
    assert process.wait(60) == 130
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), what="the end of the child and its own")


def test_a_signal_while_the_child_is_started_ends_it_too(tmp_path: Path):
    """Nobody knows the child yet: it is there, and its start has not returned."""
    path = tmp_path / "pids.json"
    during = """
import os, signal, subprocess

def start(*arguments, **options):
    process = Popen(*arguments, **options)
    while not os.path.exists(PATH):
        os.sched_yield()
    os.kill(os.getpid(), signal.SIGTERM)
    return process

Popen, subprocess.Popen = subprocess.Popen, start
"""
    starter = f"PATH = {str(path)!r}\n{during}{STARTER}"
    process = subprocess.Popen([sys.executable, "-c", starter, CHILD.format(stubborn=False, path=str(path)), "30"])
    assert process.wait(60) == 130
    pids = json.loads(path.read_text(encoding="utf-8"))
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), what="the end of the child and its own")


def test_a_second_signal_kills_what_does_not_end(tmp_path: Path):
    path = tmp_path / "pids.json"
    process = subprocess.Popen([sys.executable, "-c", STARTER, CHILD.format(stubborn=True, path=str(path)), "600"])
    wait_until(path.exists, what="the child's start")
    pids = json.loads(path.read_text(encoding="utf-8"))
    process.send_signal(signal.SIGINT)

    def ended() -> bool:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        return process.poll() is not None

    wait_until(ended, what="the end after a second signal")
    assert process.returncode != 0
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), what="the end of the child and its own")


def test_a_demo_that_is_told_to_end_leaves_nothing_running(tmp_path: Path):
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    variables = {"DAGSTER_HOME": str(home), "FINE_TUNE_PIPELINE_HOME": str(tmp_path / "state"), "PYTHONWARNINGS": "ignore"}
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "fine_tune_pipeline.cli", "demo"], env={**os.environ, **variables}, stdout=output, stderr=output
        )
    here = psutil.Process(process.pid)

    def program() -> bool:
        assert process.poll() is None, (tmp_path / "output").read_text(encoding="utf-8")[-4000:]
        return any("fine_tune_pipeline.programs.convert" in _command(child) for child in here.children(recursive=True))

    wait_until(program, what="the first program")
    started = here.children(recursive=True)
    process.terminate()
    assert process.wait(90) == 130
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
    assert list((tmp_path / "state" / "store").rglob("model.safetensors")) == []


def _command(process: psutil.Process) -> list[str]:
    """Of a process that may end while it is looked at."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
