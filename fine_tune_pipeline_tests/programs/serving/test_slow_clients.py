"""Clients over real sockets that take nothing, or send nothing more: they cost nobody else anything, and the server ends in time."""

import asyncio
import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from fine_tune_pipeline.programs import serve
from fine_tune_pipeline.programs.decoding import Generated
from fine_tune_pipeline.programs.serving import draining_server
from fine_tune_pipeline.programs.serving.draining_server import Server
from fine_tune_pipeline.programs.serving.http_gate import Keys
from fine_tune_pipeline.programs.serving.http_routes import make_app
from fine_tune_pipeline.programs.serving.service import Limits
from fine_tune_pipeline.programs.serving.wishes import Wanted
from fine_tune_pipeline_tests.programs.serving.serving_stand import ADMIN_KEY, USER_KEY, WAIT, Stand, ask, stand
from fine_tune_pipeline_tests.waiting import wait_until

CHAT = "/v1/chat/completions"
LONG = 12_000_000
"""Characters of an answer that fits into no buffer of the system."""


@dataclass(frozen=True)
class Listening:
    """An endpoint behind a real socket, with the server that production has."""

    stand: Stand
    server: Server
    thread: threading.Thread
    port: int

    def answered(self) -> float:
        """Seconds that one ordinary request took."""
        start = time.monotonic()
        with httpx.Client(headers={"Authorization": f"Bearer {USER_KEY}"}, timeout=WAIT, trust_env=False) as client:
            answer = client.post(f"http://127.0.0.1:{self.port}{CHAT}", json=ask("hello"))
        assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "bank-v1 says hello")
        return time.monotonic() - start

    def held_back(self) -> int:
        """Bytes that clients have not taken."""
        return sum(connection.transport.get_write_buffer_size() for connection in list(self.server.server_state.connections))

    def end(self) -> None:
        """As SIGTERM does."""
        self.server.handle_exit(15, None)


def long_winded(it: Stand, name: str, prompts: Sequence[Wanted]) -> list[Generated]:
    """Answers `long` with a text that no buffer holds, in two pieces with the gate between; everything else as usual."""
    answers = []
    for prompt in prompts:
        asked = "".join(map(chr, prompt))
        pieces = ["x" * LONG, "end"] if asked == "long" else [f"{name} says {asked}"]
        for piece in pieces:
            prompt.heard.wrote(piece, ())
            if asked == "long":
                assert it.models.gate.wait(WAIT)
        answers.append(Generated(text="".join(pieces), tokens=3, logprob=-0.5, finished=True))
    return answers


@contextmanager
def listening(folder: Path, limits: Limits) -> Iterator[Listening]:
    with stand(folder, limits=limits) as it:
        it.service.ability = "free"
        it.thread._generate = lambda name, prompts, most: long_winded(it, name, prompts)
        it.promote(1)
        listener = serve.bind("127.0.0.1", 0, before=None)
        config = uvicorn.Config(make_app(it.service, Keys(user=USER_KEY, admin=ADMIN_KEY)), log_level="critical", lifespan="off", ws="none")
        server = Server(config, it.service)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), name="http")
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield Listening(it, server, thread, listener.getsockname()[1])
        finally:
            it.models.gate.set()
            server.handle_exit(15, None)
            thread.join(WAIT)
        assert not thread.is_alive()


def opened(port: int) -> socket.socket:
    """A connection that takes little at a time."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(WAIT)
    client.connect(("127.0.0.1", port))
    return client


def asks(client: socket.socket, prompt: str, *, announced: int = 0) -> None:
    """A request over this connection, for a stream; `announced` bytes more than are sent."""
    body = json.dumps(ask(prompt, stream=True)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {USER_KEY}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body) + announced}\r\n\r\n".encode() + body)


def p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1]


def test_a_client_that_takes_nothing_of_its_stream_costs_others_no_time(tmp_path: Path):
    with listening(tmp_path / "state", Limits(slow_reader_seconds=WAIT)) as it, ExitStack() as clients:
        alone = [it.answered() for _ in range(20)]
        for _ in range(3):
            asks(clients.enter_context(opened(it.port)), "long")
        wait_until(lambda: it.held_back() > 2 * LONG)
        beside = [it.answered() for _ in range(20)]
        assert it.held_back() > 2 * LONG
        assert p95(beside) < 3 * p95(alone) + 0.2


def test_a_client_that_takes_nothing_is_left_and_its_connection_does_not_stay(tmp_path: Path):
    with listening(tmp_path / "state", Limits(slow_reader_seconds=0.3)) as it, opened(it.port) as client:
        it.stand.models.gate.clear()
        asks(client, "long")
        wait_until(lambda: it.held_back() > LONG // 2)
        it.stand.models.gate.set()
        wait_until(lambda: len(it.stand.log) == 1)
        assert it.stand.log.window(1)[0].request.status == 499
        wait_until(lambda: not it.server.server_state.connections)
        it.answered()


def test_who_reads_slowly_but_reads_gets_the_whole_answer(tmp_path: Path):
    with listening(tmp_path / "state", Limits(slow_reader_seconds=2.0)) as it, opened(it.port) as client:
        asks(client, "long")
        got = bytearray()
        while b"data: [DONE]" not in got[-64:]:
            got += client.recv(1 << 16)
        assert got.count(b"x") > LONG
        wait_until(lambda: len(it.stand.log) == 1)
        assert it.stand.log.window(1)[0].request.status == 200


def test_a_body_that_does_not_come_is_refused_after_its_time_and_the_connection_is_closed(tmp_path: Path):
    with listening(tmp_path / "state", Limits(body_seconds=0.3)) as it, opened(it.port) as client:
        asks(client, "hello", announced=10)
        it.answered()
        head, _, body = b"".join(iter(lambda: client.recv(1 << 16), b"")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408")
        assert "not there whole after 0.3 seconds" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("client_does", ["takes nothing", "sends nothing more", "keeps its connection"])
def test_no_client_keeps_the_server_from_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client_does: str):
    monkeypatch.setattr(draining_server, "SENDING_SECONDS", 1)
    with listening(tmp_path / "state", Limits(drain_seconds=1.0)) as it, opened(it.port) as client:
        if client_does == "takes nothing":
            asks(client, "long")
            wait_until(lambda: it.held_back() > LONG // 2)
        elif client_does == "sends nothing more":
            asks(client, "hello", announced=10)
        it.answered()
        started = time.monotonic()
        it.end()
        it.thread.join(WAIT)
        assert time.monotonic() - started < 10


def test_a_batch_that_lasts_longer_than_the_grace_does_not_keep_the_server_from_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(draining_server, "SENDING_SECONDS", 1)
    with listening(tmp_path / "state", Limits(drain_seconds=0.3)) as it, opened(it.port) as client:
        it.stand.models.gate.clear()
        asks(client, "long")
        wait_until(lambda: it.held_back() > LONG // 2)
        it.end()
        it.thread.join(WAIT / 2)
        assert (it.thread.is_alive(), it.stand.thread.alive) == (False, True)
