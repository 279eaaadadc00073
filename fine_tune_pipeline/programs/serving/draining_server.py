"""uvicorn as the endpoint needs it: it drains before it stops, comes to its end in time, and waits for nobody who takes nothing."""

import asyncio
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, NamedTuple

import uvicorn

from fine_tune_pipeline.programs.serving.service import Service

SENDING_SECONDS = 5
"""For what is answered already and must still be sent while the server ends."""

LOOK_SECONDS = 0.1


class _Closing(NamedTuple):
    """A connection that was closed with so many bytes that its client has not taken, and since when there are that many."""

    left: int
    since: float


class Server(uvicorn.Server):
    """Stops when it is told to, and when the model thread has died."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._asked_at: float | None = None
        self._closing: Mapping[Any, _Closing] = {}

    @property
    def ending_seconds(self) -> float:
        """Since it was told to end; 0 if nobody has told it."""
        return 0.0 if self._asked_at is None else time.monotonic() - self._asked_at

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A signal may come while a lock is held, so nothing is done here.
        self._asked_at = self._asked_at or time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        if self._asked_at is not None and not self._service.draining:
            self._service.drain()
        # While the last batch runs, clients get 503; afterwards the port is closed.
        if not self._service.thread_alive or self.ending_seconds > self._service.limits.drain_seconds:
            self.should_exit = True
        self._cut_who_takes_nothing(self._service.limits.slow_reader_seconds)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, within what is left of the time: answers that are computed elsewhere may still come."""
        left = self._service.limits.drain_seconds - self.ending_seconds
        self.config.timeout_graceful_shutdown = max(SENDING_SECONDS, round(left))
        cutting = asyncio.create_task(self._go_on_cutting())
        await super().shutdown(sockets)
        cutting.cancel()
        with suppress(asyncio.CancelledError):
            await cutting
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def _go_on_cutting(self) -> None:
        while True:
            self._cut_who_takes_nothing(SENDING_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)

    def _cut_who_takes_nothing(self, seconds: float) -> None:
        """A connection is closed when what was written is taken. Of a client that takes nothing it would stay for ever."""
        now, closing = time.monotonic(), {}
        for connection in list(self.server_state.connections):
            transport = connection.transport
            if not transport.is_closing():
                continue
            left = transport.get_write_buffer_size()
            before = self._closing.get(connection)
            closing[connection] = before if before is not None and before.left == left else _Closing(left, now)
            if now - closing[connection].since > seconds:
                transport.abort()
        self._closing = closing
