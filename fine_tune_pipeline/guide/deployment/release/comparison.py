"""Is the new version worse than the old one? Counts of what went wrong with each, by exact tests that may be looked at again and again.

Four kinds of trouble, each a share of two arms: errors, answers that do not fit the task, slow answers, answers that people did not like.
Each is one table of Fisher's, one-sided; Holm's rule joins them. Half of the 5 % is spent while requests come in: look number j, taken when
4, 8, 16, … requests have come, spends 2.5 % / j(j + 1), which never sums to more. The other half is for the look at the end. So a version
that is no worse is taken back in at most 5 % of releases, however often anybody looks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from fine_tune_pipeline.artifacts.traffic import Logged
from fine_tune_pipeline.guide.evaluation.holm import holm

ALPHA = 0.05
FIRST_LOOK = 4

SLOWER = 1.5
"""Where the objective sets no limit, slow is what takes longer than this many times the old version's 95th percentile."""

NOTICED_MS = 250.0
"""And nothing below is: nobody notices it, and so short times vary by the machine."""

FEWEST_TIMED = 20
"""Answers of the old version that a percentile is taken of."""


@dataclass(frozen=True)
class Signal:
    """One kind of trouble in both arms: how many of how many requests had it. `p` is the chance to see so much more of it in the new arm
    if it is no worse; `adjusted` allows for the other kinds."""

    name: str
    new_bad: int
    new: int
    old_bad: int
    old: int
    p: float
    adjusted: float = 1.0

    def row(self) -> dict[str, Any]:
        """As a line of a table."""
        return {
            "signal": self.name,
            "new version": f"{self.new_bad} of {self.new}",
            "old version": f"{self.old_bad} of {self.old}",
            "p": round(self.p, 5),
            "adjusted p": round(self.adjusted, 5),
        }

    def __str__(self) -> str:
        shares = f"{self.new_bad} of {self.new} against {self.old_bad} of {self.old}"
        return f"{self.name}: {shares}, p {self.adjusted:.2g} (Fisher, Holm)"


def counted(arm: Sequence[Logged]) -> list[Logged]:
    """Requests that say something of a version: not those that were refused, or left by the client."""
    return [logged for logged in arm if not 400 <= logged.request.status < 500]


def signals(new: Sequence[Logged], old: Sequence[Logged], *, limit_ms: float | None) -> list[Signal]:
    """All kinds of trouble that both arms can be compared by.

    Args:
        new, old: requests of the two versions.
        limit_ms: of one answer, by the objective.
    """
    slow = slow_ms(old, limit_ms=limit_ms)
    kinds: dict[str, Callable[[Logged], bool | None]] = {"errors": _failed, "invalid_answers": _invalid, "bad_feedback": _disliked}
    if slow is not None:
        kinds["slow_answers"] = lambda logged: None if _failed(logged) else logged.request.latency_ms > slow
    found = [_signal(name, counted(new), counted(old), trouble) for name, trouble in kinds.items()]
    known = [signal for signal in found if signal.new and signal.old]
    adjusted = holm([signal.p for signal in known])
    return [replace(signal, adjusted=value) for signal, value in zip(known, adjusted, strict=True)]


def slow_ms(old: Sequence[Logged], *, limit_ms: float | None) -> float | None:
    """What counts as slow; None where nothing says so."""
    if limit_ms is not None:
        return limit_ms
    times = sorted(logged.request.latency_ms for logged in counted(old) if not _failed(logged))
    if len(times) < FEWEST_TIMED:
        return None
    return max(NOTICED_MS, SLOWER * times[ceil(0.95 * len(times)) - 1])


def due_looks(requests: int, *, most: int) -> int:
    """How many of the early looks are due after so many requests; the one at `most` is the last look, and none of these."""
    looks = 0
    while (at := FIRST_LOOK * 2**looks) <= requests and at < most:
        looks += 1
    return looks


def level_of(look: int | None) -> float:
    """What a look may spend; None is the last."""
    return ALPHA / 2 if look is None else ALPHA / 2 / (look * (look + 1))


def fisher_greater(bad: int, rows: int, bad_before: int, rows_before: int) -> float:
    """P(at least `bad` of `rows`) when all trouble is dealt out by chance: Fisher's exact test, one-sided.

    Source: R. A. Fisher, Statistical Methods for Research Workers (1925), 21.02; `test_comparison.py` compares with scipy.
    """
    from scipy.stats import hypergeom

    return float(hypergeom.sf(bad - 1, rows + rows_before, bad + bad_before, rows))


def _signal(name: str, new: Sequence[Logged], old: Sequence[Logged], trouble: Callable[[Logged], bool | None]) -> Signal:
    bad, rows = _count(new, trouble)
    bad_before, rows_before = _count(old, trouble)
    return Signal(name, bad, rows, bad_before, rows_before, fisher_greater(bad, rows, bad_before, rows_before) if rows else 1.0)


def _count(arm: Sequence[Logged], trouble: Callable[[Logged], bool | None]) -> tuple[int, int]:
    seen = [found for logged in arm if (found := trouble(logged)) is not None]
    return sum(seen), len(seen)


def _failed(logged: Logged) -> bool:
    return logged.request.status >= 500


def _invalid(logged: Logged) -> bool | None:
    valid = logged.request.valid
    return None if logged.request.status != 200 or valid is None else not valid


def _disliked(logged: Logged) -> bool | None:
    """A thumb down, or a correction that is another answer; None where nobody said anything. The last word counts."""
    said = [feedback for feedback in logged.feedback if feedback.thumb is not None or feedback.corrected is not None]
    if not said:
        return None
    last = said[-1]
    return last.thumb == "down" if last.thumb is not None else last.corrected != logged.request.answer_scrubbed
