"""Writes the traffic log beside the answering: one background thread, in batches, personal data taken out before anything reaches the disk.

Answers never wait for the log and never fail with it. A row is in the log a fifth of a second after its answer; its texts follow when the
scrubber is done with them. What could not be kept is counted and told, also what was lost when the process was killed.
"""

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from fine_tune_pipeline.artifacts.traffic import Feedback, ServedRequest, Settled, TrafficLog, UnknownRequest
from fine_tune_pipeline.programs.serving.answer_count import AnswerCount
from fine_tune_pipeline.programs.serving.api_keys import KEY_NAME
from fine_tune_pipeline.programs.serving.pending_row import Answered, PendingRow
from fine_tune_pipeline.programs.serving.scrubbing_thread import Scrubber, ScrubbingThread

__all__ = ["Answered", "LogClosed", "NotScrubbed", "Scrubber", "TrafficWriter"]

FLUSH_ROWS = 256
FLUSH_SECONDS = 0.2
SCRUB_SECONDS = 0.05
"""How long a batch waits for its texts; those that take longer come behind."""

QUEUE_ROWS = 4096
"""Rows that may wait for the disk; further ones are dropped, since memory is what the model needs."""

LATE_ROWS = 4096
"""Rows in the log that may wait for their texts; further ones stay without, for the same reason."""

COMPANY_SECONDS = 1.0
"""How long the texts of a row of a busy server wait for others: sixteen at once are half the work."""

TEXTS_SECONDS = 2.0
"""How long feedback waits for the texts of the rows before it, so that whoever reads it finds what it is about."""

RETRY_SECONDS = 5.0
"""How often a log that failed is tried again while nothing new comes."""

KILLED = "the server ended before they were written"


class NotScrubbed(Exception):
    """A text could not be freed of personal data, so it was not kept."""


class LogClosed(Exception):
    """The server is being stopped."""


class RowCopy(Protocol):
    """Somebody else who is given the rows, once they are in the log with all that will be; neither waits nor raises."""

    @property
    def problem(self) -> str | None: ...

    def __call__(self, rows: Sequence[ServedRequest]) -> object: ...

    def close(self, timeout_seconds: float) -> None: ...


@dataclass(frozen=True)
class _Said:
    """Feedback whose correction is with the scrubber, and where the outcome goes."""

    feedback: Feedback
    cleaned: "Future[list[str]] | None"
    kept: "Future[None]"
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Look:
    """Something that was waited for is there."""


class TrafficWriter:
    """The only writer of one traffic log."""

    def __init__(
        self,
        log: TrafficLog,
        *,
        scrubber: Callable[[], Scrubber],
        salt: bytes,
        count: AnswerCount | None = None,
        copy: RowCopy | None = None,
        company_seconds: float = 0.0,
    ) -> None:
        """
        Args:
            scrubber: makes the scrubber; called once, in a thread of its own, since it may take seconds.
            salt: key of the hashes, so that a short text or a user's name can't be found by trying.
            count: how many answers there were, over the life of several processes.
            copy: is given the rows, too, when the log has them.
            company_seconds: how long the texts of a row wait for others to be scrubbed with them; feedback on one and the end cut it short.
        """
        self._log = log
        self._salt = salt
        self._count = count or AnswerCount()
        self._copy = copy
        self.scrubbing = ScrubbingThread(scrubber, company_seconds=company_seconds)
        self._waiting: queue.Queue[Answered | _Said | _Look | None] = queue.Queue(maxsize=QUEUE_ROWS)
        self._guard = threading.Lock()
        self._dropped = 0
        self._untold: Counter[str] = Counter()
        self._settled: int | None = None
        self._late: deque[PendingRow] = deque()
        self._late_said: list[_Said] = []
        self._problem: str | None = None
        self._scrub_problem: str | None = None
        self._closed = False
        self._end = 0.0
        self._thread = self._started()

    @property
    def dropped(self) -> int:
        """Answered requests that are missing from the log since the server started."""
        return self._dropped

    @property
    def problem(self) -> str | None:
        """Why the log is not as it should be now; None when it is."""
        if (error := self.scrubbing.problem) is not None:
            return f"traffic log: no scrubber, only lengths and hashes are kept ({type(error).__name__}: {error})"
        return self._problem or self._scrub_problem or (None if self._copy is None else self._copy.problem)

    def put(self, answered: Answered) -> None:
        """Queue a row; never waits, never raises."""
        if (name := KEY_NAME.get()) is not None:
            answered = replace(answered, row=replace(answered.row, key_name=name))
        with self._guard:
            self._count.add()
            self._ensure_thread()
        try:
            self._waiting.put_nowait(answered)
        except queue.Full:
            self._count_dropped(1, "the disk is slower than the traffic")

    def feedback(self, said: Feedback, *, closed: bool) -> "Future[None]":
        """Queue feedback after the rows that came before it; the future says how it ended.

        Its exceptions: UnknownRequest, NotScrubbed, LogClosed, LogFailed, OSError.
        """
        free = said.corrected is not None and not closed
        cleaned = self.scrubbing.clean_now([said.corrected or ""]) if free else None
        item = _Said(feedback=said, cleaned=cleaned, kept=Future())
        with self._guard:
            self._ensure_thread()
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            item.kept.set_exception(OSError("the traffic log can't keep up; try again later"))
        return item.kept

    def close(self, timeout_seconds: float) -> None:
        """Write what waits, then end."""
        self._closed = True
        self._end = time.monotonic() + timeout_seconds
        with suppress(queue.Full):
            self._waiting.put(None, timeout=timeout_seconds)
        self._thread.join(timeout_seconds)
        self.scrubbing.close()
        self._log.close()
        if self._copy is not None:
            self._copy.close(max(0.0, self._end - time.monotonic()))

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="traffic-log", daemon=True)
        thread.start()
        return thread

    def _ensure_thread(self) -> None:
        if not self._thread.is_alive() and not self._closed:
            self._thread = self._started()

    def _run(self) -> None:
        batch: list[PendingRow | _Said] = []
        try:
            if self._count.lasting:
                self._write([])
            last = False
            while not last:
                batch, last = self._next()
                self._write(batch)
                batch = []
            self._finish()
        finally:
            # The thread died by an error of ours: these rows are lost, and the next request starts a new thread.
            lost = sum(isinstance(item, PendingRow) for item in batch)
            if lost:
                self._count_dropped(lost, "the writer died")
            for item in batch:
                if isinstance(item, _Said) and not item.kept.done():
                    item.kept.set_exception(OSError("the writer died"))

    def _next(self) -> "tuple[list[PendingRow | _Said], bool]":
        """What goes into one transaction, and whether it is the last."""
        batch: list[PendingRow | _Said] = []
        seconds, deadline = self._patience(), None
        while True:
            try:
                item = self._waiting.get(timeout=seconds)
            except queue.Empty:
                return batch, False
            if item is None:
                return batch, True
            if isinstance(item, Answered):
                batch.append(self._pending(item))
            elif isinstance(item, _Said):
                batch.append(item)
            if not isinstance(item, Answered) or len(batch) >= FLUSH_ROWS:
                return batch, False
            deadline = deadline or time.monotonic() + FLUSH_SECONDS
            seconds = max(0.0, deadline - time.monotonic())

    def _patience(self) -> float | None:
        """How long nothing new may come before there is something to do all the same."""
        if self._late or self._late_said:
            return FLUSH_SECONDS
        unsure = self._count.lasting and self._settled is None
        return RETRY_SECONDS if self._untold or unsure else None

    def _pending(self, answered: Answered) -> PendingRow:
        scrub = len(self._late) < LATE_ROWS
        if not scrub:
            self._scrub_problem = "traffic log: scrubbing is slower than the traffic, only lengths and hashes are kept"
        return PendingRow(answered, scrubbing=self.scrubbing, salt=self._salt, scrub=scrub)

    def _write(self, batch: "Sequence[PendingRow | _Said]") -> bool:
        """One transaction: new rows, the texts of earlier ones, and what is missing; then the feedback, which is on rows that are there.
        Whether the transaction went well."""
        pending = [item for item in batch if isinstance(item, PendingRow)]
        if pending:
            # The last one is done last. One write is half the work of two.
            wait(pending[-1].waits_for, timeout=SCRUB_SECONDS)
        ready = [row.scrubbed for row in pending]
        rows = [self._whole(row) if done else row.bare for row, done in zip(pending, ready, strict=True)]
        late = self._late_rows()
        stored = self._store(rows, [self._whole(row) for row in late])
        if stored:
            self._late.extend(row for row, done in zip(pending, ready, strict=True) if not done and row.expects_texts)
        else:
            self._late.extendleft(reversed(late))
        for said in [*self._take_late_said(), *(item for item in batch if isinstance(item, _Said))]:
            self._keep(said)
        return stored

    def _late_rows(self) -> list[PendingRow]:
        """Those at the head of the line whose texts are there now."""
        found = []
        while self._late and self._late[0].scrubbed:
            found.append(self._late.popleft())
        return found

    def _whole(self, row: PendingRow) -> ServedRequest:
        self._scrub_problem = row.problem
        return row.whole()

    def _store(self, rows: Sequence[ServedRequest], scrubbed: Sequence[ServedRequest]) -> bool:
        """Whether it is written; what is not is counted."""
        try:
            self._account_for_before()
            with self._guard:
                told = dict(self._untold)
            if rows or scrubbed or told:
                accounted = (self._settled or 0) + len(rows) + sum(told.values())
                settled = Settled(server=self._count.server, answered=accounted) if self._count.lasting else None
                self._log.write(rows, scrubbed=scrubbed, dropped=told, settled=settled)
                self._settled = accounted
                self._count.mark_known()
        except OSError as error:
            self._count_dropped(len(rows), f"{type(error).__name__}: {error}")
            return False
        with self._guard:
            self._untold.subtract(told)
            self._untold = +self._untold
        self._problem = None
        if self._copy is not None:
            self._copy([row for row in (*rows, *scrubbed) if row.prompt_scrubbed is not None])
        return True

    def _account_for_before(self) -> None:
        """Answers that an earlier process gave and that the log knows nothing of are missing: it was killed. Found once."""
        if self._settled is not None or not self._count.lasting:
            return
        accounted = self._log.settled(self._count.server)
        if accounted is None:
            # A log that was taken away and made anew has nothing to account for.
            accounted = self._count.before if self._count.known else 0
        self._settled = min(accounted, self._count.before)
        with self._guard:
            self._untold += Counter({KILLED: self._count.before - self._settled})

    def _take_late_said(self) -> list[_Said]:
        found, self._late_said = self._late_said, []
        return found

    def _keep(self, item: _Said) -> None:
        if self._too_early(item):
            self._late_said.append(item)
            return
        said = item.feedback
        if item.cleaned is not None:
            if item.cleaned.exception() is not None:
                item.kept.set_exception(NotScrubbed("the correction could not be freed of personal data, so it was not kept"))
                return
            said = replace(said, corrected=item.cleaned.result()[0])
        try:
            self._log.feedback(said)
        except (OSError, UnknownRequest) as error:
            item.kept.set_exception(error)
            return
        item.kept.set_result(None)

    def _too_early(self, item: _Said) -> bool:
        """Feedback waits for its own correction and, for a while, for the texts of the rows before it."""
        if item.cleaned is not None and not item.cleaned.done():
            item.cleaned.add_done_callback(self._look)
            return True
        if not self._late or time.monotonic() - item.since > TEXTS_SECONDS:
            return False
        waits_for = self._late[-1].waits_for
        self.scrubbing.hurry()
        for future in waits_for:
            future.add_done_callback(self._look)
        if not waits_for:
            self._look(None)
        return True

    def _look(self, _: object) -> None:
        with suppress(queue.Full):
            self._waiting.put_nowait(_Look())

    def _finish(self) -> None:
        """The texts that the scrubber still has, as long as there is time."""
        while (self._late or self._late_said) and (seconds := self._end - time.monotonic()) > 0:
            self.scrubbing.hurry()
            first = self._late[0].waits_for if self._late else [said.cleaned for said in self._late_said if said.cleaned is not None]
            wait(first, timeout=seconds)
            if not self._write([]):
                break
        for said in self._take_late_said():
            said.kept.set_exception(LogClosed("the endpoint is being stopped"))

    def _count_dropped(self, rows: int, reason: str) -> None:
        with self._guard:
            self._dropped += rows
            if rows:
                self._untold[f"traffic log: {reason}"] += rows
            self._problem = f"traffic log: {reason}"
