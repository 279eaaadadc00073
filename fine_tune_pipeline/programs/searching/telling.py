"""What a trial tells while it runs: to the reporter of this process, or, in a program of its own, over a file that the search reads."""

import json
import os
import time
from pathlib import Path
from typing import Any

from fine_tune_pipeline.programs.reporting import Reporter

TELL_SECONDS = 0.5
"""Between two lines of live numbers: the search shows them less often still."""


class NotAsked(SystemExit):
    """The search has handed this trial to another node, or is over."""


class TrialReporter(Reporter):
    """Says of everything which trial and rung it is about."""

    def __init__(self, outer: Reporter, name: str, **numbers: float) -> None:
        super().__init__(None)
        self._outer = outer
        self._name = name
        self._numbers = numbers

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        self._outer.progress(done, total, f"{self._name}: {what}", **self._numbers, **numbers)

    def log(self, message: str) -> None:
        self._outer.log(f"{self._name}: {message}")


class LiveFile(Reporter):
    """Writes down what is told, a line each time.

    The file is there already. When it is gone, as on a node that its cluster has given up, somebody else trains in the same folder by now.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(None, speaks=False)
        self._path = path
        self._what = ""
        self._told = float("-inf")

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        now = time.monotonic()
        if now - self._told < TELL_SECONDS and what == self._what and done < total:
            return
        self._told, self._what = now, what
        self._write({"done": done, "total": total, "what": what, "numbers": numbers})

    def log(self, message: str) -> None:
        self._write({"log": message})

    def _write(self, said: dict[str, Any]) -> None:
        try:
            # Never made here, and closed each time, so that other machines see the line.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError as error:
            raise NotAsked(f"{self._path} is gone: nobody waits for this trial any more") from error
        with os.fdopen(descriptor, "ab") as file:
            file.write(json.dumps(said).encode("utf-8") + b"\n")


class Told:
    """The lines of such a file, as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines that were not read yet."""
        with self._path.open("rb") as file:
            file.seek(self._place)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._place += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
