"""A training ends when one of its processes has died: the others would wait for ever, and an accelerator waits without hearing a signal."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fine_tune_pipeline.programs.exit_codes import MATE_LOST
from fine_tune_pipeline.programs.process_identity import ProcessIdentity, own_identity
from fine_tune_pipeline.programs.training.team import Team

POLL_SECONDS = 1.0

GRACE_SECONDS = 4.0
"""For a process that finds out by itself and says more about it; together with the poll well below ten."""

_NAMESPACE = Path("/proc/self/ns/pid")


def _end() -> None:
    os._exit(MATE_LOST)


@contextmanager
def watched(team: Team, *, end: Callable[[], None] = _end) -> Iterator[None]:
    """While this is open, the death of another process of the team ends this one, whatever it is doing."""
    if team.size == 1:
        yield
        return
    here = _namespace()
    others = [mate for mate, where in team.everyone((own_identity(), here)) if where == here and mate.pid != os.getpid()]
    closed = threading.Event()
    thread = threading.Thread(target=_watch, args=(others, closed, end), name="mates-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()


def _namespace() -> str:
    """Where pids mean the same."""
    return os.readlink(_NAMESPACE) if _NAMESPACE.exists() else ""


def _watch(others: Sequence[ProcessIdentity], closed: threading.Event, end: Callable[[], None]) -> None:
    while not closed.wait(POLL_SECONDS):
        gone = [mate.pid for mate in others if not mate.alive]
        if gone and not closed.wait(GRACE_SECONDS):
            sys.stderr.write(
                f"process {gone[0]} of this training has ended, so this one ends too; the next try goes on from a checkpoint\n"
            )
            sys.stderr.flush()
            end()
            return
