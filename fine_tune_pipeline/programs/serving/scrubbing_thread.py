"""Takes personal data out of texts in a thread of its own: for the log, which can wait, and for people who wait, who come first."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True)
class Scrubber:
    """Takes personal data out of one text; `name` is kept with each row, so that one can tell later what it was scrubbed by."""

    name: str
    clean: Callable[[str], str]


class ScrubbingThread:
    """The only user of one scrubber, which is third-party code: whatever goes wrong there is the outcome of one text and nothing else."""

    def __init__(self, scrubber: Callable[[], Scrubber]) -> None:
        """
        Args:
            scrubber: makes the scrubber; called once, in a thread, since it may take seconds.
        """
        self._patient = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scrub")
        self._hurried = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scrub-now")
        self._turn = threading.Condition()
        self._waiting_now = 0
        self._busy = False
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
        """The texts without personal data, when their turn comes; the future holds what the scrubber raised at the first that failed."""
        return self._patient.submit(self._cleaned, texts, False)

    def clean_now(self, texts: Sequence[str]) -> "Future[list[str]]":
        """The same, before everything that waits by `clean`: somebody waits for it."""
        with self._turn:
            self._waiting_now += 1
        done = self._hurried.submit(self._cleaned, texts, True)
        done.add_done_callback(self._served)
        return done

    def close(self) -> None:
        """Begin nothing more; the text that is being worked on is left to its thread."""
        for pool in (self._patient, self._hurried):
            pool.shutdown(wait=False, cancel_futures=True)

    def _cleaned(self, texts: Sequence[str], now: bool) -> list[str]:
        scrubber = self._scrubber.result()
        return [self._in_turn(scrubber, text, now) for text in texts]

    def _in_turn(self, scrubber: Scrubber, text: str, now: bool) -> str:
        with self._turn:
            self._turn.wait_for(lambda: not self._busy and (now or not self._waiting_now))
            self._busy = True
        try:
            return scrubber.clean(text)
        finally:
            with self._turn:
                self._busy = False
                self._turn.notify_all()

    def _served(self, done: "Future[list[str]]") -> None:
        with self._turn:
            self._waiting_now -= 1
            self._turn.notify_all()
