"""Server-sent events to one client, who may read slowly or leave."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class EventStream(Response):
    """Sends events as they come. A client that takes nothing for `slow_seconds` is left, and its answer is not written further."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None], *, slow_seconds: float, headers: Mapping[str, str]) -> None:
        """
        Args:
            first: the first event: until it is there, what fails has a status of its own.
            events: those after it.
        """
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **headers})
        # Of an empty body: the stream has no length.
        del self.headers["content-length"]
        self._first = first
        self._events = events
        self._slow_seconds = slow_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events) as events:
            try:
                await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._send(send, {"type": "http.response.body", "body": self._first, "more_body": True})
                async for event in events:
                    await self._send(send, {"type": "http.response.body", "body": event, "more_body": True})
                await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})
            except (TimeoutError, OSError):
                # Nobody reads: there is nobody to tell. The connection is closed unfinished, and the request noted as left.
                return

    async def _send(self, send: Send, message: dict[str, object]) -> None:
        await asyncio.wait_for(send(message), self._slow_seconds)


async def begun(events: AsyncGenerator[bytes, None], *, slow_seconds: float, headers: Mapping[str, str]) -> EventStream:
    """A stream whose first event is there.

    Raises:
        Exception: what `events` raises before it.
    """
    return EventStream(await anext(events), events, slow_seconds=slow_seconds, headers=headers)
