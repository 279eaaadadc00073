"""Requests at the replicas: many at once in one event loop, another replica when one fails, an adapter brought back where it was lost."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from fine_tune_pipeline.programs.vllm.adapters import Adapters
from fine_tune_pipeline.programs.vllm.completions import Completion, complete
from fine_tune_pipeline.programs.vllm.loop_thread import LoopThread
from fine_tune_pipeline.programs.vllm.replica import ModelMissing, Replica, ReplicaDown, ReplicaError, ReplicaSlow
from fine_tune_pipeline.programs.vllm.replicas import KEEP_ALIVE_SECONDS, Replicas
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream
from fine_tune_pipeline.programs.vllm.telling import Telling

ResultT = TypeVar("ResultT")

TRIES = 3
"""Of one request, at replicas that fail by themselves; greedy answers can be asked for again."""

PAUSE_SECONDS = 0.2
"""Before the same replica is asked again: it may be just coming back."""


class Asking:
    """Asks for answers until there is one, or asking again would not help."""

    def __init__(self, upstream: VllmUpstream, replicas: Replicas, adapters: Adapters, *, say: Callable[[str], None]) -> None:
        self._upstream = upstream
        self._replicas = replicas
        self._adapters = adapters
        self._say = say
        # They are near: a proxy for the internet would not find them. How many there may be is decided elsewhere.
        self._http = httpx.AsyncClient(
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_SECONDS),
        )
        self._loop = LoopThread("vllm")
        # For what blocks: looking names up, loading an adapter again.
        self._threads = ThreadPoolExecutor(upstream.requests_at_once, thread_name_prefix="vllm")

    def submit(self, answer: Coroutine[Any, Any, ResultT]) -> "Future[ResultT]":
        """Have it run beside the others."""
        return self._loop.submit(answer)

    def close(self) -> None:
        """End, once what was submitted is answered."""
        self._loop.close(self._http.aclose())
        self._threads.shutdown()

    async def answer(self, body: Mapping[str, Any], *, path: str | None, telling: Telling | None) -> Completion:
        """One answer.

        Args:
            path: of the adapter that `body["model"]` names, as vLLM sees it; None for the base model.
            telling: who hears it while it is written. What was said cannot be taken back, so then nobody else is asked.

        Raises:
            ReplicaError: there is none.
        """
        deadline = time.monotonic() + self._upstream.timeout_seconds
        tried: list[str] = []
        while True:
            replica = await self._next(tried)
            if replica.url in tried:
                await asyncio.sleep(PAUSE_SECONDS)
            tried.append(replica.url)
            left = deadline - time.monotonic()
            if left <= 0:
                raise ReplicaSlow(f"{', '.join(tried)}: no answer within {self._upstream.timeout_seconds:g} seconds")
            try:
                with self._replicas.asking(replica):
                    return await complete(replica, self._http, body, seconds=left, hear=None if telling is None else telling.hear)
            except (ReplicaDown, ModelMissing) as error:
                begun = telling is not None and telling.begun
                lost = isinstance(error, ModelMissing) and await self._in_thread(self._stays_lost, replica, body["model"], path, tried)
                if begun or lost or len(tried) == TRIES:
                    raise

    async def _next(self, tried: Sequence[str]) -> Replica:
        if self._upstream.replicas == "dns":
            return await self._in_thread(self._replicas.next, tried)
        return self._replicas.next(tried)

    async def _in_thread(self, work: Callable[..., ResultT], *arguments: Any) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _stays_lost(self, replica: Replica, name: str, path: str | None, tried: Sequence[str]) -> bool:
        """Whether an adapter is not at this replica, cannot be brought back, and nobody else is left."""
        return not self._brought_back(replica, name, path) and all(other.url in tried for other in self._replicas.all())

    def _brought_back(self, replica: Replica, name: str, path: str | None) -> bool:
        try:
            return path is not None and self._adapters.heal(replica, name, path)
        except ReplicaError as error:
            self._say(f"{name} is lost there: {error}")
            return False
