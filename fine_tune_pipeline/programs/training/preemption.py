"""Being told to stop: SIGTERM and SIGINT end a training at a moment when its state is whole, and say so by the exit code."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fine_tune_pipeline.programs.exit_codes import PREEMPTED


class Interrupted(BaseException):
    """Raised out of the forward and backward passes of a step, which leave nothing behind that counts."""


class Preempted(SystemExit):
    """The end of a program that was told to stop."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class Preemption:
    """What signals do: at once before and after the training, and inside it only where it can be broken off.

    An optimizer that has updated half of the weights is such a place where it cannot: there the signal is kept for the next one.
    """

    def __init__(self) -> None:
        self.asked = False
        self._guarded = False
        self._open = False

    def listen(self) -> None:
        """From now on; only a program's main thread can."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around a training: signals are kept, but for the stretches that are `interruptible`."""
        self._guarded = True
        try:
            yield
        finally:
            self._guarded = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around forward and backward passes.

        Raises:
            Interrupted: a signal came, now or since the last stretch.
        """
        self._open = True
        try:
            if self.asked:
                raise Interrupted
            yield
        finally:
            self._open = False

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self._guarded:
            raise Preempted
        if self._open:
            # Once: a second signal must not break what the first has begun.
            self._open = False
            raise Interrupted
