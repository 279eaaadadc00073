"""Whether the endpoint can answer: found out by an answer, not by a process that is there."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from fine_tune_pipeline.programs.hosted.upstream import UpstreamBusy, UpstreamFailed, UpstreamRefused
from fine_tune_pipeline.programs.serving.model_thread import FAILURES, Draining, QueueFull, ThreadDied
from fine_tune_pipeline.programs.serving.versions import NoChampion

FRESH_SECONDS = 5.0
"""So long what was found holds: load balancers ask often, and each answer costs a forward pass."""

WAIT_SECONDS = 10.0
"""For one token, behind what waits already."""

REASONS = (QueueFull, Draining, ThreadDied, NoChampion, UpstreamBusy, UpstreamFailed, UpstreamRefused, TimeoutError, *FAILURES)


class Readiness:
    """Asks for one token when somebody wants to know and no answer of the last seconds says it already."""

    def __init__(self, ask: Callable[[], Awaitable[None]], *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            ask: has the champion answer; raises one of `REASONS` if it cannot.
        """
        self._ask = ask
        self._clock = clock
        self._until = 0.0
        self._problem: str | None = None
        self._asking: asyncio.Task[str | None] | None = None

    def seen(self) -> None:
        """The champion has just answered somebody."""
        self._keep(None)

    async def problem(self) -> str | None:
        """Why the endpoint cannot answer; None if it can. Those who ask at the same time share one try."""
        if self._clock() < self._until:
            return self._problem
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._try())
        return await asyncio.shield(self._asking)

    async def _try(self) -> str | None:
        try:
            await asyncio.wait_for(self._ask(), WAIT_SECONDS)
        except TimeoutError:
            return self._keep(f"no answer within {WAIT_SECONDS:g} seconds")
        except REASONS as error:
            return self._keep(str(error))
        return self._keep(None)

    def _keep(self, problem: str | None) -> str | None:
        self._problem = problem
        self._until = self._clock() + FRESH_SECONDS
        return problem
