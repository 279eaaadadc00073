"""Who trains the trials of a search: this process, one after another, or programs elsewhere (`elsewhere.py`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.search_requests import RungRecord, SearchRequest, TrialRecord
from fine_tune_pipeline.programs.searching.rung import Judged, climbed
from fine_tune_pipeline.programs.training.preemption import Preemption


@dataclass(frozen=True)
class Work:
    """A trial to be trained for one rung, and the folder of the two."""

    trial: TrialRecord
    rung: int
    folder: Path


class Workers(Protocol):
    """Train what they are given. A trial is trained for one rung at a time, so its number stands for the work."""

    def start(self, work: Work, reporter: Reporter) -> None:
        """Begin, or have it begin; `reporter` tells of this trial."""

    def ended(self) -> list[tuple[int, RungRecord]]:
        """Wait until something has ended, and give all that has."""


class Here:
    """This process, one training at a time."""

    def __init__(self, request: SearchRequest, judged: Judged, preemption: Preemption) -> None:
        self._request = request
        self._judged = judged
        self._preemption = preemption
        self._waiting: list[tuple[Work, Reporter]] = []

    def start(self, work: Work, reporter: Reporter) -> None:
        self._waiting.append((work, reporter))

    def ended(self) -> list[tuple[int, RungRecord]]:
        work, reporter = self._waiting.pop(0)
        record = climbed(
            self._request,
            work.trial,
            work.rung,
            judged=self._judged,
            folder=work.folder,
            reporter=reporter,
            preemption=self._preemption,
        )
        return [(work.trial.number, record)]
