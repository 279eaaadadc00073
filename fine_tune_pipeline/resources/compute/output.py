"""What a program prints: passed on to our stderr as it comes, its last lines kept."""

import codecs
import sys
from collections import deque

from fine_tune_pipeline.resources.compute.job import TAIL_LINES


class Output:
    """The output of one program, as bytes in pieces that end anywhere, even within a letter."""

    def __init__(self) -> None:
        self.taken_bytes = 0
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._pending = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def take(self, chunk: bytes) -> None:
        """Pass it on, and keep it as long as it belongs to the last lines."""
        self.taken_bytes += len(chunk)
        sys.stderr.write(self._decoder.decode(chunk))
        sys.stderr.flush()
        *lines, rest = (self._pending + chunk).split(b"\n")
        self._lines.extend(f"{_shown(line)}\n" for line in lines)
        self._pending = _overwritten(rest)

    def tail(self) -> str:
        """The last lines so far, of which the very last may lack its end."""
        rest = [_shown(self._pending)] if self._pending else []
        return "".join([*self._lines, *rest][-TAIL_LINES:])


def _shown(line: bytes) -> str:
    return _overwritten(line).rstrip(b"\r").decode("utf-8", errors="replace")


def _overwritten(line: bytes) -> bytes:
    """What a screen shows of a line: a progress bar's carriage returns overwrite it; one at the end, as Windows has it, does not yet."""
    return line[line.rstrip(b"\r").rfind(b"\r") + 1 :]
