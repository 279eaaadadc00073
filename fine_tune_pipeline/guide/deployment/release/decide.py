"""What becomes of a release that goes on: wait, promote, keep or roll back, and why; by rows of the log and a time, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fine_tune_pipeline.artifacts.traffic import Logged
from fine_tune_pipeline.guide.deployment.release.comparison import Signal, counted, due_looks, level_of, signals
from fine_tune_pipeline.guide.deployment.release.record import Release

Does = Literal["wait", "promote", "keep", "roll_back"]


@dataclass(frozen=True)
class Decision:
    """What to do, why, the numbers behind it, and how many early looks are taken now."""

    does: Does
    reason: str
    signals: tuple[Signal, ...] = ()
    looks: int = 0

    def rows(self) -> list[dict[str, Any]]:
        """The numbers as a table."""
        return [signal.row() for signal in self.signals]


def decide(release: Release, *, new: Sequence[Logged], old: Sequence[Logged], now: float) -> Decision:
    """What follows for a release in canary or watch.

    Args:
        new: requests to the new version since the state began.
        old: requests to the version that it is held against.
        now: in seconds since 1970.
    """
    bounds = release.canary if release.state == "canary" else release.watch
    assert bounds is not None
    seen, minutes = len(counted(new)), (now - release.since) / 60
    enough, over = seen >= bounds.answers, minutes >= bounds.minutes
    looks = due_looks(seen, most=bounds.answers)
    found = tuple(signals(new, old, limit_ms=release.limit_ms))
    progress = f"{seen} of {bounds.answers} requests, {minutes:.0f} of {bounds.minutes:g} minutes"
    last = enough or (over and _decides_by_time(release))
    if last or looks > release.looks:
        level = level_of(None if last else looks)
        worse = [signal for signal in found if signal.adjusted < level]
        if worse:
            return Decision("roll_back", f"worse than version {release.rival} after {progress}: {'; '.join(map(str, worse))}", found, looks)
    if not last:
        waits = f"; the time is over, and it waits for {bounds.answers} requests" if over else ""
        return Decision("wait", f"{release.state}: {progress}{waits}", found, max(looks, release.looks))
    return _at_the_end(release, progress, found, looks, enough=enough)


def _decides_by_time(release: Release) -> bool:
    return release.state == "watch" or release.canary is None or release.canary.too_few != "wait"


def _at_the_end(release: Release, progress: str, found: tuple[Signal, ...], looks: int, *, enough: bool) -> Decision:
    """Nothing was worse."""
    told = f"not seen to be worse than version {release.rival} in {progress}"
    if release.state == "watch":
        return Decision("keep", told, found, looks)
    if enough:
        return Decision("promote", told, found, looks)
    assert release.canary is not None
    if release.canary.too_few == "roll_back":
        return Decision("roll_back", f"too few requests to tell: {progress} (deployment.canary.too_few)", found, looks)
    return Decision("promote", f"{told}: fewer than asked for, so a small difference would not show; the watch goes on", found, looks)
