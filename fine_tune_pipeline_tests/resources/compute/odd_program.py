"""A program for the contract of all places: it answers, fails, takes too much memory, says much, or does not want to end.

It needs nothing but what every program needs to report: no torch.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated

from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import Access, Contract, Request
from fine_tune_pipeline.programs.training.preemption import Preempted

LARGE = 200_000
"""Characters of the large message: more than three pipes hold."""

UNICODE = "Grüße, 東京, \N{GRINNING FACE}"


class OddRequest(Request):
    """What to do, and a file to read, if any."""

    module = "fine_tune_pipeline_tests.resources.compute.odd_program"
    do: str
    source: Annotated[str | None, Access.READS] = None


class OddResult(Contract):
    """The answer."""

    said: str


class SettingRequest(OddRequest):
    """The same, of a program whose libraries want a variable."""

    environment = {"ODD_SETTING": "of the request"}


class ResumableRequest(OddRequest):
    """The same, of work that is not done twice."""

    resumable = True


def main() -> None:
    request = parse(OddRequest)
    with session() as reporter:
        DO[request.do](request, reporter)


def answer(request: OddRequest, reporter: Reporter) -> None:
    for step in range(1, 4):
        reporter.progress(step, 3, "counting", loss=1.0 / step)
    read = "" if request.source is None else Path(request.source).read_text(encoding="utf-8")
    with (Path(request.output) / "times").open("a", encoding="utf-8") as file:
        file.write(".")
    finish(request, OddResult(said=f"done {read}".strip()))


def tell_setting(request: OddRequest, reporter: Reporter) -> None:
    finish(request, OddResult(said=os.environ.get("ODD_SETTING", "not set")))


def fail(request: OddRequest, reporter: Reporter) -> None:
    print("line before the end", UNICODE, flush=True)
    raise ValueError("the reason of the failure")


def say_much(request: OddRequest, reporter: Reporter) -> None:
    reporter.log("x" * LARGE)
    finish(request, OddResult(said="much"))


def take_memory(request: OddRequest, reporter: Reporter) -> None:
    """More than any place of the tests gives; where nothing limits it, what the kernel would do."""
    if os.environ.get("ODD_MEMORY_LIMITED"):
        print(len(os.urandom(1 << 30)))
    os.kill(os.getpid(), signal.SIGKILL)


def hang(request: OddRequest, reporter: Reporter) -> None:
    """Ignore SIGINT, start a child that ignores SIGINT and SIGTERM, say so, wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = "import signal, threading; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; threading.Event().wait()"
    child = subprocess.Popen([sys.executable, "-c", code])
    (Path(request.output) / "pids").write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
    print("hanging", flush=True)
    threading.Event().wait()


def wait(request: OddRequest, reporter: Reporter) -> None:
    """Say three lines, then wait for a file `go` in the output."""
    output = Path(request.output)
    for number in range(3):
        print(f"line {number} {UNICODE}", flush=True)
    (output / "pids").write_text(str(os.getpid()), encoding="utf-8")
    while not (output / "go").exists():
        threading.Event().wait(0.05)
    print("gone on", flush=True)
    answer(request, reporter)


def be_preempted(request: OddRequest, reporter: Reporter) -> None:
    """Twice, each time with half of the work done that was left; then answer."""
    done = sorted(Path(request.output).glob("half*"))
    if len(done) < 2:
        (Path(request.output) / f"half{len(done)}").write_text(UNICODE, encoding="utf-8")
        raise Preempted
    finish(request, OddResult(said=f"done after {len(done)}"))


def tell_and_wait(request: OddRequest, reporter: Reporter) -> None:
    reporter.log("waiting")
    threading.Event().wait()


def tell_secret(request: OddRequest, reporter: Reporter) -> None:
    finish(request, OddResult(said=os.environ.get("ODD_SECRET", "nothing")))


DO = {
    "wait": wait,
    "be_preempted": be_preempted,
    "tell_and_wait": tell_and_wait,
    "tell_secret": tell_secret,
    "tell_setting": tell_setting,
    "answer": answer,
    "fail": fail,
    "say_much": say_much,
    "take_memory": take_memory,
    "hang": hang,
}

if __name__ == "__main__":
    main()
