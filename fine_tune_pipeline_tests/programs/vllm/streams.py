"""How the stand-in for vLLM sends streams: event by event as they are computed, held or broken where a test wants it, and no further once
its client has closed the connection."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from fine_tune_pipeline_tests.waiting import wait_until

Body = dict[str, Any]
ERROR: Body = {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "param": None, "code": 500}}


@dataclass
class Break:
    """The next `times` streams end after so many events: the connection closes in the middle of the answer, an error comes instead of the
    rest, the server is being stopped, or the rest is missing although the response has its end."""

    after: int
    how: Literal["connection", "error", "abort", "no end"]
    times: int = 1


@dataclass
class Streams:
    """Streams of one server: what is to happen to them, and what has."""

    hold_after: int | None = None
    more: threading.Event = field(default_factory=threading.Event)
    breaks: Break | None = None
    computed: int = 0
    finished: int = 0
    left: int = 0

    def send(self, handler: BaseHTTPRequestHandler, events: Iterator[Body], *, gone: threading.Event) -> None:
        """Send them, until the client is gone."""
        handler.send_response(200)
        for name, value in (
            ("Content-Type", "text/event-stream; charset=utf-8"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close"),
        ):
            handler.send_header(name, value)
        handler.end_headers()
        try:
            for number, event in enumerate(events):
                self.computed += 1
                if number == self.hold_after:
                    wait_until(lambda: self.more.is_set() or gone.is_set())
                if gone.is_set():
                    raise ConnectionResetError
                if self.breaks is not None and number == self.breaks.after and self.breaks.times:
                    self.breaks.times -= 1
                    _break(handler, event, self.breaks)
                    return
                _write(handler, json.dumps(event, ensure_ascii=False))
            # Counted before the end is sent: then the client may know it.
            self.finished += 1
            _write(handler, "[DONE]")
            handler.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.left += 1


def _break(handler: BaseHTTPRequestHandler, event: Body, wanted: Break) -> None:
    if wanted.how == "connection":
        return
    if wanted.how == "error":
        _write(handler, json.dumps(ERROR))
        _write(handler, "[DONE]")
    if wanted.how == "abort":
        _write(handler, json.dumps({**event, "choices": [{**choice, "finish_reason": "abort"} for choice in event["choices"]]}))
        _write(handler, "[DONE]")
    handler.wfile.write(b"0\r\n\r\n")


def _write(handler: BaseHTTPRequestHandler, data: str) -> None:
    content = f"data: {data}\n\n".encode()
    handler.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
    handler.wfile.flush()


def watched(connection: socket.socket) -> threading.Event:
    """Set when the other side has closed the connection."""
    gone = threading.Event()

    def watch() -> None:
        with suppress(OSError):
            # Nothing is sent by a client that waits for its answer, so this ends when the connection does.
            connection.recv(1, socket.MSG_PEEK)
        gone.set()

    threading.Thread(target=watch, daemon=True).start()
    return gone
