"""Between the model thread, which writes an answer, and the event loop, whose client waits for it.

What is not sent yet is joined: however slowly a client reads, no more is kept for it than its one answer.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fine_tune_pipeline.programs.token_scores import TokenScore


@dataclass(frozen=True)
class Part:
    """A piece of an answer and, where they are wanted, the scores of its tokens."""

    text: str
    scores: tuple[TokenScore, ...] = ()


class Listener:
    """Hears one answer. Made in the event loop that waits for it."""

    def __init__(self, *, streams: bool) -> None:
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._guard = threading.Lock()
        self._texts: list[str] = []
        self._scores: list[TokenScore] = []
        self._answer: object | None = None
        self._left = False
        self._when_left: list[Callable[[], None]] = []

    @property
    def streams(self) -> bool:
        """Whether pieces are wanted before the whole answer."""
        return self._streams

    @property
    def stays(self) -> bool:
        """Whether somebody waits for the answer."""
        return not self._left

    @property
    def answer(self) -> object | None:
        """The whole answer, once it is there."""
        return self._answer

    def leave(self) -> None:
        """Nobody waits any more."""
        with self._guard:
            self._left = True
            calls, self._when_left = self._when_left, []
        for call in calls:
            call()

    def when_left(self, call: Callable[[], None]) -> None:
        """Have something called as soon as nobody waits any more, at once if that is so already; in whichever thread finds it out."""
        with self._guard:
            if not self._left:
                self._when_left.append(call)
                return
        call()

    def wrote(self, text: str, scores: Sequence[TokenScore]) -> None:
        """Called in the model thread: what is new."""
        with self._guard:
            self._texts.append(text)
            self._scores += scores
        self.wake()

    def done(self, answer: object) -> None:
        """Called in the model thread: this is all."""
        self._answer = answer
        self.wake()

    def wake(self) -> None:
        """Called in any thread: something has changed."""
        # A loop that has ended has nobody who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    async def changed(self, *, seconds: float) -> None:
        """Wait until something is new, at most so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        self._changed.clear()

    def take(self) -> Part | None:
        """What is new since the last time."""
        with self._guard:
            texts, scores = self._texts, self._scores
            self._texts, self._scores = [], []
        return Part("".join(texts), tuple(scores)) if texts else None
