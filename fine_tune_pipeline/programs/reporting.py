"""How a program tells the world: live numbers over Dagster Pipes, a progress bar for people, one result file.

Works the same without Dagster: then only the bar and the file remain. Also the watchdogs that end a program whose starter has died: its
parent process, or, in a container or on another machine, whoever renews its lease.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TypeVar, get_args

from dagster_pipes import PipesContext, open_dagster_pipes
from tqdm import tqdm

from fine_tune_pipeline.programs.requests import Contract, Parallel, Request

RequestT = TypeVar("RequestT", bound=Request)

PARENT_VARIABLE = "FINE_TUNE_PIPELINE_PARENT"
LEASE_VARIABLE = "FINE_TUNE_PIPELINE_LEASE"
LEASE_SECONDS_VARIABLE = "FINE_TUNE_PIPELINE_LEASE_SECONDS"
RESULT = "result.json"

POLL_SECONDS = 1.0
"""How often the watchdog looks at its parent; a GPU is held at most this much longer."""


class Reporter:
    """Live progress of one program."""

    def __init__(self, pipes: PipesContext | None, *, speaks: bool = True) -> None:
        self._pipes = pipes
        self._speaks = speaks
        self._bar: tqdm | None = None

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        """Show that `done` of `total` are finished; `numbers` go to Dagster as one live message (throttled there)."""
        if not self._speaks:
            return
        if self._bar is None or self._bar.desc != what or self._bar.total != total:
            self.close()
            self._bar = tqdm(total=total, desc=what, file=sys.stderr, mininterval=1.0, dynamic_ncols=True, leave=True)
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items()}, refresh=False)
        self._bar.update(done - self._bar.n)
        if self._pipes is not None:
            self._pipes.report_custom_message({"what": what, "done": done, "total": total, "numbers": numbers})

    def log(self, message: str) -> None:
        """Say one line, in Dagster's event log or on stderr."""
        if self._pipes is not None:
            self._pipes.log.info(message)
        elif self._speaks:
            # Output often goes to a file, whose disk may be full: that must not end who says something.
            with suppress(OSError):
                print(message, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def parse(request_type: type[RequestT]) -> RequestT:
    """The request named on the command line."""
    return request_type.read(_parser(request_type).parse_args().request)


def parse_parallel(request_type: type[RequestT]) -> tuple[RequestT, Parallel]:
    """The same of a program that may be started in several processes, and how these share the work."""
    parser = _parser(request_type)
    parser.add_argument("--parallel", choices=get_args(Parallel), default="ddp", help="fsdp2: each process holds a part of the model")
    parsed = parser.parse_args()
    return request_type.read(parsed.request), parsed.parallel


def _parser(request_type: type[RequestT]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=request_type.__doc__)
    parser.add_argument("--request", required=True, type=Path, help="JSON file, see fine_tune_pipeline.programs.requests")
    return parser


@contextmanager
def session(*, speaks: bool = True) -> Iterator[Reporter]:
    """Report to whoever started this program; ends it when that one dies. One of several processes that does not speak only does the
    latter."""
    watch_parent()
    watch_lease()
    if "DAGSTER_PIPES_CONTEXT" not in os.environ or not speaks:
        reporter = Reporter(None, speaks=speaks)
        try:
            yield reporter
        finally:
            reporter.close()
        return
    with open_dagster_pipes() as pipes:
        reporter = Reporter(pipes)
        try:
            yield reporter
        finally:
            reporter.close()


def finish(request: Request, result: Contract) -> None:
    """Write the answer; last, since its presence says that the rest is whole."""
    result.write(Path(request.output) / RESULT)


def end_on_signals() -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that files and runs are closed; and Ctrl-C itself, which is ignored by whatever
    a shell has started in the background."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def watch_parent() -> None:
    """End this process group when the process that started it is gone, however it died; or a launcher between the two.

    The starter names its pid in the environment; without it (a person at a shell) nobody is watched.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return
    threading.Thread(target=_end_with, args=(int(parent),), name="parent-watchdog", daemon=True).start()


def _end_with(parent: int) -> None:
    direct = os.getppid()
    while os.getppid() == direct and (direct == parent or _stands_above(parent)):
        time.sleep(POLL_SECONDS)
    # Nothing is said first: whoever read our output is gone too, and writing to it would end this thread instead.
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _stands_above(parent: int) -> bool:
    # Only behind a launcher, which needs it itself; a program that is started directly needs pydantic and dagster-pipes only.
    import psutil

    return any(each.pid == parent for each in psutil.Process().parents())


def watch_lease() -> None:
    """End this program when nobody renews its lease any more: a file whose text changes, named in the environment.

    For places where the starter is no parent of ours. Only the text counts, so clocks of two machines need not agree.
    """
    lease = os.environ.get(LEASE_VARIABLE)
    if lease is None:
        return
    seconds = float(os.environ[LEASE_SECONDS_VARIABLE])
    threading.Thread(target=_end_without_lease, args=(Path(lease), seconds), name="lease-watchdog", daemon=True).start()


def _end_without_lease(lease: Path, seconds: float) -> None:
    seen, since = None, time.monotonic()
    while time.monotonic() - since < seconds:
        text = lease.read_text(encoding="utf-8") if lease.exists() else None
        if text != seen:
            seen, since = text, time.monotonic()
        time.sleep(min(POLL_SECONDS, seconds / 4))
    print(f"ended: nobody has renewed {lease} for {seconds:g} s", file=sys.stderr, flush=True)
    if os.getpid() != 1:
        os.killpg(os.getpgrp(), signal.SIGKILL)
    # The first process of a container cannot be killed from inside, and all others end with it.
    os._exit(1)
