"""A program for the tests of `Compute`: it answers, fails, or does not want to end and has a child that does not either."""

import signal
import subprocess
import sys
from pathlib import Path

from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import Contract, Request

MODULE = "fine_tune_pipeline_tests.resources.stubborn"
CHILD = """
import signal, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Event().wait()
"""


class StubbornRequest(Request):
    """What to do: `answer`, `fail` or `hang`."""

    module = MODULE
    do: str


class StubbornResult(Contract):
    """The answer."""

    said: str


def main() -> None:
    request = parse(StubbornRequest)
    with session() as reporter:
        {"answer": answer, "fail": fail, "hang": hang}[request.do](request, reporter)


def answer(request: StubbornRequest, reporter: Reporter) -> None:
    for step in range(1, 4):
        reporter.progress(step, 3, "counting", loss=1.0 / step)
    finish(request, StubbornResult(said="done"))


def fail(request: StubbornRequest, reporter: Reporter) -> None:
    print("line before the end")
    raise ValueError("the reason of the failure")


def hang(request: StubbornRequest, reporter: Reporter) -> None:
    """Ignore SIGINT, start a child that ignores SIGINT and SIGTERM, write both pids, wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", CHILD])
    import os

    (Path(request.output) / "pids").write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
    child.wait()


if __name__ == "__main__":
    main()
