"""Writes the traffic log beside the answering: one background thread, in batches, personal data taken out before anything reaches the disk.

Answers never wait for the log and never fail with it. What could not be kept is counted and told.
"""

import hashlib
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.traffic import Feedback, ServedRequest, TrafficLog, UnknownRequest
from fine_tune_pipeline.programs.serving.nested import mapped, strings

FLUSH_ROWS = 64
FLUSH_SECONDS = 0.2
QUEUE_ROWS = 4096
"""Rows that may wait for the disk; further ones are dropped, since memory is what the model needs."""


class NotScrubbed(Exception):
    """A text could not be freed of personal data, so it was not kept."""


class LogClosed(Exception):
    """The server is being stopped."""


@dataclass(frozen=True)
class Scrubber:
    """Takes personal data out of one text; `name` is kept with each row, so that one can tell later what it was scrubbed by."""

    name: str
    clean: Callable[[str], str]


@dataclass(frozen=True)
class Answered:
    """A request as it was answered, with raw texts: it lives in memory only. A `closed` answer holds no free text to scrub."""

    row: ServedRequest
    asked: Asked
    answer: str
    user: str | None = None
    closed: bool = False


@dataclass(frozen=True)
class _Said:
    """Feedback with a raw correction, and where the outcome goes."""

    feedback: Feedback
    closed: bool
    kept: "Future[None]"


class TrafficWriter:
    """The only writer of one traffic log."""

    def __init__(self, log: TrafficLog, *, scrubber: Callable[[], Scrubber], salt: bytes) -> None:
        """
        Args:
            scrubber: makes the scrubber; called once, in a thread of its own, since it may take seconds.
            salt: key of the hashes, so that a short text or a user's name can't be found by trying.
        """
        self._log = log
        self._salt = salt
        self._waiting: queue.Queue[Answered | _Said | None] = queue.Queue(maxsize=QUEUE_ROWS)
        self._guard = threading.Lock()
        self._dropped = 0
        self._untold = 0
        self._problem: str | None = None
        self._scrub_problem: str | None = None
        self._closed = False
        # Scrubbing runs third-party language models: whatever goes wrong there stays in this pool.
        self._scrubbing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scrub")
        self._scrubber: Future[Scrubber] = self._scrubbing.submit(scrubber)
        self._thread = self._started()

    @property
    def dropped(self) -> int:
        """Answered requests that are missing from the log since the server started."""
        return self._dropped

    @property
    def problem(self) -> str | None:
        """Why the log is not as it should be now; None when it is."""
        if self._scrubber.done() and (error := self._scrubber.exception()) is not None:
            return f"traffic log: no scrubber, only lengths and hashes are kept ({type(error).__name__}: {error})"
        return self._problem or self._scrub_problem

    def put(self, answered: Answered) -> None:
        """Queue a row; never waits, never raises."""
        self._ensure_thread()
        try:
            self._waiting.put_nowait(answered)
        except queue.Full:
            self._count_dropped(1, "the disk is slower than the traffic")

    def feedback(self, said: Feedback, *, closed: bool) -> "Future[None]":
        """Queue feedback after the rows that came before it; the future says how it ended.

        Its exceptions: UnknownRequest, NotScrubbed, LogClosed, sqlite3.Error, OSError.
        """
        item = _Said(feedback=said, closed=closed, kept=Future())
        self._ensure_thread()
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            item.kept.set_exception(OSError("the traffic log can't keep up; try again later"))
        return item.kept

    def close(self, timeout_seconds: float) -> None:
        """Write what waits, then end."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join(timeout_seconds)
        self._scrubbing.shutdown(wait=False, cancel_futures=True)

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="traffic-log", daemon=True)
        thread.start()
        return thread

    def _ensure_thread(self) -> None:
        with self._guard:
            if self._thread.is_alive() or self._closed:
                return
            self._thread = self._started()

    def _run(self) -> None:
        batch: list[Answered | _Said] = []
        try:
            while True:
                batch, last = self._next()
                self._write(batch)
                batch = []
                if last:
                    return
        finally:
            # The thread died by an error of ours: these rows are lost, and the next request starts a new thread.
            lost = sum(isinstance(item, Answered) for item in batch)
            if lost:
                self._count_dropped(lost, "the writer died")
            for item in batch:
                if isinstance(item, _Said) and not item.kept.done():
                    item.kept.set_exception(OSError("the writer died"))

    def _next(self) -> tuple[list[Answered | _Said], bool]:
        """What goes into one transaction, and whether it is the last."""
        first = self._waiting.get()
        batch: list[Answered | _Said] = []
        deadline = time.monotonic() + FLUSH_SECONDS
        item = first
        while item is not None:
            batch.append(item)
            if isinstance(item, _Said) or len(batch) >= FLUSH_ROWS:
                return batch, False
            try:
                item = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return batch, False
        return batch, True

    def _write(self, batch: list[Answered | _Said]) -> None:
        rows = [self._scrubbed(item) for item in batch if isinstance(item, Answered)]
        try:
            if rows:
                self._log.append(rows)
            if self._untold:
                self._log.drop(self._untold, reason=self._problem or "unknown")
                self._untold = 0
            self._problem = None
        except (sqlite3.Error, OSError) as error:
            self._count_dropped(len(rows), f"{type(error).__name__}: {error}")
        for item in batch:
            if isinstance(item, _Said):
                self._keep(item)

    def _keep(self, item: _Said) -> None:
        said = item.feedback
        if said.corrected is not None and not item.closed:
            clean = self._clean(said.corrected)
            if clean is None:
                item.kept.set_exception(NotScrubbed("the correction could not be freed of personal data, so it was not kept"))
                return
            said = replace(said, corrected=clean)
        try:
            self._log.feedback(said)
        except (sqlite3.Error, OSError, UnknownRequest) as error:
            item.kept.set_exception(error)
            return
        item.kept.set_result(None)

    def _scrubbed(self, answered: Answered) -> ServedRequest:
        self._scrub_problem = None
        before = self._before(answered.asked)
        # Without the turns before it, a prompt would be taken for a question of its own.
        prompt = None if before is None else self._clean(answered.asked.prompt)
        answer = answered.answer if answered.closed else self._clean(answered.answer)
        return replace(
            answered.row,
            prompt_scrubbed=prompt,
            before_scrubbed=before or None,
            answer_scrubbed=answer,
            prompt_characters=len(answered.asked.prompt),
            answer_characters=len(answered.answer),
            prompt_hash=self._hash(answered.asked.prompt) if prompt is None else None,
            answer_hash=self._hash(answered.answer) if answer is None else None,
            user_hash=None if answered.user is None else self._hash(answered.user),
            scrubber="" if self._scrubber.exception() is not None else self._scrubber.result().name,
        )

    def _before(self, asked: Asked) -> str | None:
        """What stood before the prompt, as JSON without personal data, empty when nothing did; None when the scrubber failed."""
        before = asked.beside()
        if not before:
            return ""
        cleaned = {text: clean for text in set(strings(before)) if (clean := self._clean(text)) is not None}
        whole = cleaned.keys() == set(strings(before))
        return json.dumps(mapped(before, cleaned), ensure_ascii=False) if whole else None

    def _clean(self, text: str) -> str | None:
        """The text without personal data; None when the scrubber failed, whatever it raised."""
        if self._scrubber.exception() is not None:
            return None
        cleaned = self._scrubbing.submit(self._scrubber.result().clean, text)
        error = cleaned.exception()
        if error is None:
            return cleaned.result()
        # Its message may quote the text, so only the type is told.
        self._scrub_problem = f"traffic log: scrubbing failed ({type(error).__name__}), only lengths and hashes are kept"
        return None

    def _hash(self, text: str) -> str:
        return hashlib.blake2b(text.encode("utf-8"), key=self._salt, digest_size=16).hexdigest()

    def _count_dropped(self, rows: int, reason: str) -> None:
        with self._guard:
            self._dropped += rows
            self._untold += rows
            self._problem = f"traffic log: {reason}"
