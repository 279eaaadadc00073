"""A verdict on each classic mistake, with the seconds that it took to look."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fine_tune_pipeline.programs.mistakes.names import MISTAKES
from fine_tune_pipeline.programs.preflight_requests import MistakeCheck


@dataclass(frozen=True)
class Verdict:
    """`passed` is None where the mistake cannot be made or could not be looked for; `seen` says why. `change` is what to do, or to know."""

    passed: bool | None
    seen: str
    change: str = ""


def fine(seen: str, change: str = "") -> Verdict:
    """The mistake is not there."""
    return Verdict(True, seen, change)


def wrong(seen: str, change: str) -> Verdict:
    """The mistake is there."""
    return Verdict(False, seen, change)


def not_applicable(why: str) -> Verdict:
    """It cannot be made here, or looking for it would cost too much."""
    return Verdict(None, why)


class Checklist:
    """All mistakes, filled in while preflight goes on; the first verdict that finds a mistake stays."""

    def __init__(self) -> None:
        self._found: dict[str, MistakeCheck] = {}

    def look(self, id: str, check: Callable[[], Verdict]) -> bool:
        """Run a check and keep its verdict; False if the mistake is there. What does not fit into memory is not held against the run."""
        start = time.perf_counter()
        try:
            verdict = check()
        except (torch.OutOfMemoryError, MemoryError) as error:
            verdict = not_applicable(f"too little memory to look, beside the training itself: {error}")
        self.set(id, verdict, seconds=time.perf_counter() - start)
        return verdict.passed is not False

    def set(self, id: str, verdict: Verdict, *, seconds: float = 0.0) -> None:
        """Keep a verdict that came about elsewhere."""
        assert id in MISTAKES, id
        if id not in self._found or self._found[id].passed is not False:
            self._found[id] = MistakeCheck(id=id, seconds=seconds, **vars(verdict))

    @property
    def failed(self) -> list[str]:
        """Ids of the mistakes that are there."""
        return [id for id, check in self._found.items() if check.passed is False]

    def all(self, *, unreached: str) -> tuple[MistakeCheck, ...]:
        """A verdict for every mistake, in the order of `MISTAKES`; those that were not looked for say `unreached`."""
        return tuple(self._found.get(id) or MistakeCheck(id=id, passed=None, seen=unreached) for id in MISTAKES)
