"""Takes personal data out of texts in a thread of its own: for the log, which can wait, and for people who wait, who come first."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

BATCH_TEXTS = 16
BATCH_CHARACTERS = 20_000
"""Scrubbed at once, which is half the work of one by one; a longer text goes alone. Somebody who waits comes in after such a batch of rows
at the latest, that is after some 40 ms."""


@dataclass(frozen=True)
class Scrubber:
    """Takes personal data out of texts, each by itself; `name` is kept with each row, so that one can tell what it was scrubbed by."""

    name: str
    clean: Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class _Asked:
    """Texts that wait together, and where the outcome goes."""

    texts: tuple[str, ...]
    done: "Future[list[str]]" = field(default_factory=Future)


class ScrubbingThread:
    """The only user of one scrubber, which is third-party code: whatever goes wrong there is the outcome of one text and nothing else."""

    def __init__(self, scrubber: Callable[[], Scrubber], *, company_seconds: float = 0.0) -> None:
        """
        Args:
            scrubber: makes the scrubber; called once, in a thread, since it may take seconds.
            company_seconds: how long texts that can wait do so for others, unless somebody is in a `hurry`.
        """
        self._company_seconds = company_seconds
        self._patient = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scrub")
        self._hurried = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scrub-now")
        self._turn = threading.Condition()
        self._waiting_now = 0
        self._busy = False
        self._line: deque[_Asked] = deque()
        self._guard = threading.Condition(threading.RLock())
        self._called = False
        self._hurry = False
        self._closed = False
        self._scrubber: Future[Scrubber] = self._patient.submit(scrubber)

    @property
    def problem(self) -> BaseException | None:
        """Why there is no scrubber; None if there is one, or it is still being made."""
        return self._scrubber.exception() if self._scrubber.done() else None

    @property
    def name(self) -> str:
        """What scrubs; empty if there is none yet."""
        return self._scrubber.result().name if self._scrubber.done() and self._scrubber.exception() is None else ""

    def wait_until_ready(self) -> None:
        """Wait for the scrubber.

        Raises:
            whatever making it raised.
        """
        self._scrubber.result()

    def clean(self, texts: Sequence[str]) -> "Future[list[str]]":
        """The texts without personal data, when their turn comes; the future holds what the scrubber raised at one of them. Those that
        wait at the same time are scrubbed together, and apart again if that fails."""
        asked = _Asked(tuple(texts))
        with self._guard:
            if self._closed:
                raise RuntimeError("the scrubbing has ended")
            self._line.append(asked)
            if not self._called:
                self._called = True
                self._patient.submit(self._next_batch)
            elif len(self._line) >= BATCH_TEXTS:
                self._guard.notify_all()
        return asked.done

    def hurry(self) -> None:
        """What waits for company shall go now."""
        with self._guard:
            self._hurry = True
            self._guard.notify_all()

    def clean_now(self, texts: Sequence[str]) -> "Future[list[str]]":
        """The same, before everything that waits by `clean`: somebody waits for it."""
        with self._turn:
            self._waiting_now += 1
        done = self._hurried.submit(self._cleaned, texts, True)
        done.add_done_callback(self._served)
        return done

    def close(self) -> None:
        """Begin nothing more; the text that is being worked on is left to its thread."""
        with self._guard:
            self._closed = True
            self._guard.notify_all()
            for pool in (self._patient, self._hurried):
                pool.shutdown(wait=False, cancel_futures=True)
            while self._line:
                self._line.popleft().done.cancel()

    def _next_batch(self) -> None:
        """Take what waits, as much as may go at once, and queue it. The future of that work, and not this, knows how it ends."""
        with self._guard:
            self._guard.wait_for(lambda: len(self._line) >= BATCH_TEXTS or self._hurry or self._closed, timeout=self._company_seconds)
            if self._closed:
                return
            batch = [self._line.popleft() for _ in range(min(len(self._line), BATCH_TEXTS))]
            self._queue(batch)
            self._called = bool(self._line)
            if self._called:
                self._patient.submit(self._next_batch)
            else:
                self._hurry = False

    def _queue(self, batch: Sequence[_Asked]) -> None:
        job = self._patient.submit(self._cleaned, [text for asked in batch for text in asked.texts], False)
        job.add_done_callback(partial(self._share, batch))

    def _share(self, batch: Sequence[_Asked], job: "Future[list[str]]") -> None:
        """Give each its part of the outcome."""
        if job.cancelled():
            for asked in batch:
                asked.done.cancel()
        elif (error := job.exception()) is None:
            clean = iter(job.result())
            for asked in batch:
                asked.done.set_result([next(clean) for _ in asked.texts])
        elif len(batch) == 1:
            batch[0].done.set_exception(error)
        else:
            self._apart(batch)

    def _apart(self, batch: Sequence[_Asked]) -> None:
        """One of them fails, and the others must not."""
        with self._guard:
            for asked in batch:
                if self._closed:
                    asked.done.cancel()
                else:
                    self._queue([asked])

    def _cleaned(self, texts: Sequence[str], now: bool) -> list[str]:
        scrubber = self._scrubber.result()
        return [clean for chunk in _chunks(texts) for clean in self._in_turn(scrubber, chunk, now)]

    def _in_turn(self, scrubber: Scrubber, texts: Sequence[str], now: bool) -> list[str]:
        with self._turn:
            self._turn.wait_for(lambda: not self._busy and (now or not self._waiting_now))
            self._busy = True
        try:
            return scrubber.clean(texts)
        finally:
            with self._turn:
                self._busy = False
                self._turn.notify_all()

    def _served(self, done: "Future[list[str]]") -> None:
        with self._turn:
            self._waiting_now -= 1
            self._turn.notify_all()


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """In order, each as large as may go at once."""
    begin, characters = 0, 0
    for number, text in enumerate(texts):
        characters += len(text)
        if number > begin and (number - begin == BATCH_TEXTS or characters > BATCH_CHARACTERS):
            yield texts[begin:number]
            begin, characters = number, len(text)
    if begin < len(texts):
        yield texts[begin:]
