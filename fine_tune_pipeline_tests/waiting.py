"""Waiting for processes, ports and files: until a condition holds, never for a time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")

PAUSE_SECONDS = 0.05


class NeverHappened(AssertionError):
    """A condition did not hold before its deadline."""


def wait_until(condition: Callable[[], ResultT], *, deadline_seconds: float = 60.0, what: str = "") -> ResultT:
    """What `condition()` gives, as soon as it is true.

    Raises:
        NeverHappened: it was not before the deadline; `what` says what was waited for.
    """
    end = time.monotonic() + deadline_seconds
    pause = threading.Event()
    while not (found := condition()):
        if time.monotonic() > end:
            raise NeverHappened(f"not within {deadline_seconds} s: {what or condition}")
        pause.wait(PAUSE_SECONDS)
    return found
