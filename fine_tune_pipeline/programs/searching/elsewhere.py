"""Trials that run as programs of their own on other machines, several at the same time, over the folders that all share.

Each has a request, a file in which it tells how far it is, and a record, which it writes last. One that is lost with its node or its
process is handed on once more, and goes on from its last checkpoint.
"""

import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fine_tune_pipeline.programs.exit_codes import MATE_LOST, PREEMPTED, STALLED
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.search_requests import RungRecord, RungRequest, SearchRequest
from fine_tune_pipeline.programs.searching.nodes import Ended, Nodes, Order
from fine_tune_pipeline.programs.searching.rung import LIVE, RECORD, REQUEST
from fine_tune_pipeline.programs.searching.telling import Told
from fine_tune_pipeline.programs.searching.workers import Work

TRIES = 2
"""Of one training: what was lost twice is lost a third time."""

LOOK_SECONDS = 0.5
"""How often is looked at what trials tell."""

SHOW_SECONDS = 2.0
"""Between two live messages of all of them together; Dagster shows no more."""

NOT_FOR_TRIALS = ("DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES")
"""Variables of the job: only the search itself speaks to Dagster."""

LOST_CODES = {PREEMPTED: "it was told to stop", STALLED: "it made no progress any more", MATE_LOST: "a process of it has died"}


class TrialBroken(RuntimeError):
    """A trial has ended by an error that says nothing about its point; the others would meet it too."""


@dataclass
class _Flight:
    """A training that somebody has been asked for; `tries` is 0 when an earlier search has left its record."""

    work: Work
    reporter: Reporter
    tries: int = 0
    lost: str = ""
    told: Told | None = None
    latest: dict[str, Any] = field(default_factory=dict)
    began: float | None = None

    def read(self) -> None:
        """Take what is new: lines of the log are said at once, numbers wait."""
        for line in self.told.new() if self.told is not None else ():
            self.began = self.began or time.monotonic()
            if "log" in line:
                self.reporter.log(line["log"])
            else:
                self.latest = line

    @property
    def seconds(self) -> float:
        """Since the first try has begun."""
        return 0.0 if self.began is None else time.monotonic() - self.began


class Elsewhere:
    """Has `nodes` train trials of a search; `reporter` tells of all of them together."""

    def __init__(self, request: SearchRequest, nodes: Nodes, reporter: Reporter) -> None:
        self._request = request
        self._nodes = nodes
        self._reporter = reporter
        self._flights: dict[int, _Flight] = {}
        self._shown = time.monotonic()

    def start(self, work: Work, reporter: Reporter) -> None:
        flight = self._flights[work.trial.number] = _Flight(work, reporter)
        # An earlier search has ended after its trial, and before it wrote that down.
        if not _recorded(work.folder):
            self._hand_on(flight)

    def ended(self) -> list[tuple[int, RungRecord]]:
        """As `Workers.ended`.

        Raises:
            TrialBroken: see there.
        """
        while True:
            ended = self._nodes.ended(0.0 if any(not flight.tries for flight in self._flights.values()) else LOOK_SECONDS)
            for flight in self._flights.values():
                flight.read()
            done = [*self._left_behind(), *self._landed(ended)]
            if done:
                return done
            self._show()

    def _hand_on(self, flight: _Flight) -> None:
        work, flight.tries = flight.work, flight.tries + 1
        work.folder.mkdir(parents=True, exist_ok=True)
        # Whoever still tells there trains for nobody, and ends when it sees that.
        for old in work.folder.glob(LIVE):
            old.unlink()
        live = work.folder / LIVE.replace("*", secrets.token_hex(4))
        live.touch()
        flight.told = Told(live)
        request = RungRequest(output=str(work.folder), search=self._request, trial=work.trial, rung=work.rung, live=str(live))
        request.write(work.folder / REQUEST)
        command = [sys.executable, "-m", RungRequest.module, "--request", str(work.folder / REQUEST)]
        self._nodes.start(Order(work.trial.number, command, NOT_FOR_TRIALS))

    def _left_behind(self) -> Iterator[tuple[int, RungRecord]]:
        for number in [number for number, flight in self._flights.items() if not flight.tries]:
            yield number, self._record_of(number)

    def _record_of(self, number: int) -> RungRecord:
        return RungRecord.read(self._flights.pop(number).work.folder / RECORD)

    def _landed(self, ended: Mapping[int, Ended]) -> Iterator[tuple[int, RungRecord]]:
        for number, end in ended.items():
            flight = self._flights[number]
            if end.status == 0 and _recorded(flight.work.folder):
                yield number, self._record_of(number).model_copy(update={"lost": flight.lost})
                continue
            why = lost(end)
            if why is None:
                raise TrialBroken(f"trial {number} ended with exit code {end.status}. Last lines of its output:\n{end.said.strip()}")
            if flight.tries < TRIES:
                flight.lost = why
                flight.reporter.log(f"lost, {why}; handed on once more, it goes on from its last checkpoint")
                self._hand_on(flight)
                continue
            yield number, self._given_up(self._flights.pop(number), why)

    def _given_up(self, flight: _Flight, why: str) -> RungRecord:
        work = flight.work
        share = self._request.rungs[work.rung]
        return RungRecord(rung=work.rung, share=share, score=None, failed=f"Lost {TRIES} times: {why}", seconds=flight.seconds)

    def _show(self) -> None:
        """How far all are, in one message."""
        now = time.monotonic()
        shown = {number: flight.latest for number, flight in sorted(self._flights.items()) if flight.latest}
        if not shown or now - self._shown < SHOW_SECONDS:
            return
        self._shown = now
        numbers = {f"trial_{number}/{name}": value for number, latest in shown.items() for name, value in _numbers(latest).items()}
        done, total = (sum(latest[name] for latest in shown.values()) for name in ("done", "total"))
        self._reporter.progress(done, total, f"trials {', '.join(map(str, shown))}", **numbers)


def _numbers(latest: dict[str, Any]) -> dict[str, float]:
    return {"share_done": latest["done"] / max(1, latest["total"]), **latest["numbers"]}


def _recorded(folder: Path) -> bool:
    """Whether the record is there. Listed, not asked for by name: a folder of the network remembers for a while what was not there."""
    return folder.exists() and RECORD in os.listdir(folder)


def lost(end: Ended) -> str | None:
    """Why a program did not come to its end, if that is no error of its own; None if it is one."""
    if end.status is None:
        return end.said
    if end.status < 0:
        return f"killed by signal {-end.status}; 9 that nobody sent is usually the node out of memory"
    return LOST_CODES.get(end.status) or ("it left no record" if end.status == 0 else None)
