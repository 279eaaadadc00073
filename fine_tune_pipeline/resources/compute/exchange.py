"""The folder through which a run and its program talk: request, messages, lease; inside the request's output, on shared storage."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from fine_tune_pipeline.programs.reporting import LEASE_SECONDS_VARIABLE, LEASE_VARIABLE
from fine_tune_pipeline.programs.requests import Request, identity

FOLDER = ".exchange"
RENEWALS = 4
"""A lease is renewed so often within its length, so that one late write does not end a program."""

REQUEST, RESULT = "request.json", "result.json"


def answered(request: Request) -> bool:
    """Whether an earlier try of the same resumable work has finished, so that its answer only has to be read."""
    return request.resumable and (Path(request.output) / RESULT).exists() and _tried_before(request)


@contextmanager
def exchange(request: Request) -> Iterator[Path]:
    """The folder, with the request in it; what is left of other work is removed first. After success only a resumable request stays."""
    folder = Path(request.output) / FOLDER
    if not (request.resumable and _tried_before(request)):
        shutil.rmtree(folder, ignore_errors=True)
        (Path(request.output) / RESULT).unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    request.write(folder / REQUEST)
    yield folder
    shutil.rmtree(folder)
    if request.resumable:
        folder.mkdir()
        request.write(folder / REQUEST)


def _tried_before(request: Request) -> bool:
    """What decides nothing of the outcome, such as when checkpoints are written, may differ."""
    written, asked = Path(request.output) / FOLDER / REQUEST, request.identity()
    if not written.exists():
        return False
    earlier, decides = json.loads(written.read_text(encoding="utf-8")), json.loads(asked)
    return identity({name: value for name, value in earlier.items() if name in decides}) == asked


@contextmanager
def leased(folder: Path, seconds: float | None) -> Iterator[dict[str, str]]:
    """Renews the lease of the program that is about to start, as long as this is open; gives the variables that tell the program.

    When this process dies, however it dies, the program ends by itself `seconds` later. Without seconds there is no lease.
    """
    if seconds is None:
        yield {}
        return
    lease, closed = folder / "lease", threading.Event()

    def renew() -> None:
        for number in count():
            lease.write_text(str(number), encoding="utf-8")
            if closed.wait(seconds / RENEWALS):
                return

    lease.write_text("new", encoding="utf-8")
    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield {LEASE_VARIABLE: str(lease), LEASE_SECONDS_VARIABLE: f"{seconds:g}"}
    finally:
        closed.set()
        thread.join()
