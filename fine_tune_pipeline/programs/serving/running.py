"""One request from its place in the queue to its answer."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future
from typing import Protocol

from fine_tune_pipeline.programs.serving.listening import Listener, Part
from fine_tune_pipeline.programs.serving.model_thread import FAILURES, Draining, QueueFull, ThreadDied
from fine_tune_pipeline.programs.token_scores import TokenScore

POLL_SECONDS = 0.2
"""How often a waiting request looks whether its client is still there."""


class TookTooLong(Exception):
    """No answer within the time of one request; it was taken out of the queue or, if it was being written, out of its batch."""


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Written(Protocol):
    """What a model wrote. `logprob` is the mean log-probability of its tokens, None where a provider does not give it."""

    @property
    def text(self) -> str: ...

    @property
    def tokens(self) -> int: ...

    @property
    def logprob(self) -> float | None: ...

    @property
    def finished(self) -> bool: ...


class Kept(Protocol):
    """Where it is noted how a request ended: once, whatever happens."""

    def answered(self, written: Written) -> None: ...

    def failed(self, error: Exception) -> None: ...


EXPECTED = (QueueFull, Draining, ThreadDied, TookTooLong, ClientGone, *FAILURES)
"""How a request may end without an answer."""


class Running:
    """A queued request. `parts` must be read to its end, or closed; then it is noted how the request ended."""

    def __init__(
        self,
        queued: "Future[Written]",
        *,
        listener: Listener,
        seconds: float,
        gone: Callable[[], Awaitable[bool]],
        kept: Kept,
    ) -> None:
        """
        Args:
            seconds: within which the answer must be there.
            gone: whether the client has left.
        """
        self._queued = queued
        self._listener = listener
        self._seconds = seconds
        self._gone = gone
        self._kept = kept
        self._deadline = time.monotonic() + seconds
        self._looked = time.monotonic()
        self._answer: Written | None = None
        queued.add_done_callback(lambda _: listener.wake())

    async def parts(self) -> AsyncGenerator[Part, None]:
        """What is written, as it comes; nothing before the end of a request that does not stream, and of models that do not say more.

        Raises:
            TookTooLong, ClientGone, Draining, ThreadDied: see there.
            RuntimeError, ValueError, LookupError, OSError: the model failed on this batch.
        """
        error: Exception = ClientGone("the client has left")
        try:
            said = False
            while (written := self._written()) is None:
                if part := self._listener.take():
                    said = True
                    yield part
                await self._refuse_to_wait()
                await self._listener.changed(seconds=POLL_SECONDS)
            if part := self._listener.take() or (None if said else _whole(written)):
                yield part
            self._answer = written
        except EXPECTED as caught:
            error = caught
            raise
        finally:
            # Also when the reader closed it half-way.
            if self._answer is not None:
                self._kept.answered(self._answer)
            else:
                self._listener.leave()
                self._queued.cancel()
                self._kept.failed(error)

    async def whole(self) -> Written:
        """The answer; raises what `parts` raises."""
        async for _ in self.parts():
            pass
        return self.answer

    @property
    def answer(self) -> Written:
        """What was written, once `parts` was read to its end."""
        assert self._answer is not None
        return self._answer

    def _written(self) -> Written | None:
        """The answer if it is there: told by the model when its row has ended, or with the whole batch."""
        if (told := self._listener.answer) is not None:
            return told  # type: ignore[return-value]
        return self._queued.result() if self._queued.done() else None

    async def _refuse_to_wait(self) -> None:
        now = time.monotonic()
        if now > self._deadline:
            raise TookTooLong(f"no answer within {self._seconds:g} seconds")
        if now - self._looked >= POLL_SECONDS:
            self._looked = now
            if await self._gone():
                raise ClientGone("the client has left")


def _whole(written: Written) -> Part:
    scores: tuple[TokenScore, ...] | None = getattr(written, "scores", None)
    return Part(written.text, scores or ())
