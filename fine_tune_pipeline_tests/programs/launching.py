"""Start a program as the pipeline does: its own process, a request file, a result file."""

import os
import subprocess
import sys
from pathlib import Path

from fine_tune_pipeline.programs.requests import Request

NO_NETWORK = (
    "import socket, sys\n"
    "def refuse(*_): raise OSError('the network was asked')\n"
    "socket.socket.connect = refuse\n"
    "import runpy\n"
    "module = sys.argv.pop(1)\n"
    "runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
)
"""Runs a program in a process that cannot connect to anything."""


def launch(request: Request) -> Path:
    """Run the request's program without a network, and return its result.json; the program's own words are shown if it fails."""
    asked = Path(request.output) / "request.json"
    request.write(asked)
    command = [sys.executable, "-c", NO_NETWORK, request.module, "--request", str(asked)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return Path(request.output) / "result.json"
