"""Commands that run in front of the user and end with the one that started them: by Ctrl-C, by SIGTERM, or by an error."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

GRACE_SECONDS = 90.0
"""A run that is interrupted first ends its program, which may take two times ten seconds, and writes down that it was cancelled."""

INTERRUPTED = 130
"""Exit code of a command that was interrupted, as a shell gives it."""


class _Start:
    """While a process is being started a signal waits: it would interrupt before anybody knows whom to end."""

    def __init__(self) -> None:
        self._waits = self._came = False

    def __enter__(self) -> None:
        self._waits, self._came = True, False

    def __exit__(self, *_: object) -> None:
        self._waits = False
        if self._came:
            raise KeyboardInterrupt

    def interrupt(self) -> None:
        """What a signal does."""
        if not self._waits:
            raise KeyboardInterrupt
        self._came = True


_start = _Start()


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Within the block SIGTERM, sent by `kill`, `timeout` and container engines, raises KeyboardInterrupt as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        _start.interrupt()

    # Also where a shell started us in the background, which leaves Ctrl-C ignored.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def running(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, grace_seconds: float = GRACE_SECONDS
) -> Iterator["subprocess.Popen[bytes]"]:
    """The command, while the block runs; then it is told to end, once, and killed with all it started if it does not.

    It is in a process group of its own: Ctrl-C reaches it through us only, since a second one would disturb its cleaning up.
    """
    process = None
    try:
        with _start:
            process = subprocess.Popen(command, env=None if env is None else {**os.environ, **env}, start_new_session=True)
        yield process
    finally:
        if process is not None:
            _end(process, grace_seconds)


def _end(process: "subprocess.Popen[bytes]", grace_seconds: float) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
    except KeyboardInterrupt:
        # A second Ctrl-C: whoever sends it does not want to wait.
        _kill(process)
        raise


def _kill(process: "subprocess.Popen[bytes]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
