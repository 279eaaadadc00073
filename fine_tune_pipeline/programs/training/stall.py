"""A training that makes no step any more says where it stands, and ends: a GPU that waits for ever costs as much as one that works."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from fine_tune_pipeline.programs.exit_codes import STALLED

SLOWER = 20
"""Times the longest pause so far: a machine that is merely busy is not taken for one that hangs."""


def _end() -> None:
    os._exit(STALLED)


class StallWatch:
    """Waits for beats in a thread of its own; when none comes, writes every thread's stack to `stacks` and stderr, and ends the process.

    Args:
        seconds: without a beat that are too long.
        stacks: file for what every thread was doing.
        end: what to do then.
    """

    def __init__(self, *, seconds: float, stacks: Path, end: Callable[[], None] = _end) -> None:
        self._seconds = seconds
        self._stacks = stacks
        self._end = end
        self._last = time.monotonic()
        self._longest = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall-watchdog", daemon=True)

    def __enter__(self) -> "StallWatch":
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        self._thread.join()

    def beat(self) -> None:
        """Something was done: a pass, a step, a checkpoint."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    @property
    def limit(self) -> float:
        """Seconds without a beat that are too long by now."""
        return max(self._seconds, SLOWER * self._longest)

    def _watch(self) -> None:
        while not self._closed.wait(min(self._seconds, 60.0) / 4):
            waited = time.monotonic() - self._last
            if waited > self.limit:
                self._say(waited)
                return

    def _say(self, waited: float) -> None:
        sys.stderr.write(
            f"stalled: nothing was done for {waited:.0f} s, the limit is {self.limit:.0f} s; what every thread was doing stands in "
            f"{self._stacks}. The next try goes on from the last checkpoint.\n"
        )
        with self._stacks.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file)
        sys.stderr.write(self._stacks.read_text(encoding="utf-8"))
        sys.stderr.flush()
        self._end()
