"""Streams over the wire: a client that reads slowly or leaves costs nothing but its own answer."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.programs.decoding import Generated
from fine_tune_pipeline.programs.serving.http_stream import EventStream, begun
from fine_tune_pipeline.programs.serving.listening import Listener
from fine_tune_pipeline.programs.serving.readiness import FRESH_SECONDS, Readiness
from fine_tune_pipeline.programs.serving.wishes import Wanted
from fine_tune_pipeline_tests.programs.serving.serving_stand import WAIT, ask, stand
from fine_tune_pipeline_tests.programs.serving.test_serve_http import CHAT, error_of, get, post
from fine_tune_pipeline_tests.waiting import wait_until

ENOUGH = 3


class Source:
    """Events that know whether they were closed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.given = 0
        self.closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            for _ in range(self.count):
                self.given += 1
                yield b"data: x\n\n"
        finally:
            self.closed = True


async def receive() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def stream_to(source: Source, *, takes: int, slow_seconds: float = 0.05) -> list[Any]:
    """What a client got that takes so many messages and then no more."""
    got: list[Any] = []

    async def send(message: Any) -> None:
        if len(got) >= takes:
            await asyncio.Event().wait()
        got.append(message)

    response: EventStream = await begun(source.events(), slow_seconds=slow_seconds, headers={"x-request-id": "1"})
    await response({"type": "http"}, receive, send)
    return got


def test_a_stream_is_sent_event_by_event_and_ends():
    source = Source(3)
    got = asyncio.run(stream_to(source, takes=99))
    headers = dict(got[0]["headers"])
    assert (got[0]["status"], headers[b"content-type"], headers[b"x-request-id"]) == (200, b"text/event-stream; charset=utf-8", b"1")
    assert b"content-length" not in headers
    assert [message["more_body"] for message in got[1:]] == [True, True, True, False]


def test_who_takes_nothing_is_left_and_no_more_events_are_made():
    source = Source(1000)
    got = asyncio.run(stream_to(source, takes=ENOUGH))
    assert len(got) == ENOUGH
    assert source.given == ENOUGH
    assert source.closed


def test_what_a_slow_client_has_not_taken_is_joined():
    async def heard() -> Any:
        listener = Listener(streams=True)
        for number in range(1000):
            listener.wrote(str(number % 10), ())
        await listener.changed(seconds=WAIT)
        return listener.take(), listener.take()

    part, nothing = asyncio.run(heard())
    assert (len(part.text), nothing) == (1000, None)


def test_a_listener_whose_loop_has_ended_disturbs_nobody():
    async def made() -> Listener:
        return Listener(streams=True)

    listener = asyncio.run(made())
    listener.wrote("late", ())
    assert listener.take() is not None


def spelled(prompts: Sequence[Wanted], name: str, gate: Any) -> list[Generated]:
    """Says three words to each listener, and waits before the last."""
    answers = []
    for prompt in prompts:
        words = [f"{name} ", "says ", "".join(map(chr, prompt))]
        for word in words[:2]:
            prompt.heard.wrote(word, ())
        assert gate.wait(WAIT)
        if prompt.heard.stays:
            prompt.heard.wrote(words[2], ())
        answers.append(Generated(text="".join(words), tokens=3, logprob=-0.5, finished=True))
    return answers


async def leave(app: Any, *, key: str, after: int) -> list[bytes]:
    """Speaks ASGI directly: asks for a stream, and leaves after so many events."""
    left, events = asyncio.Event(), []
    body = b'{"stream": true, "messages": [{"role": "user", "content": "hi"}]}'
    asked = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            events.append(message["body"])
        if len(events) >= after:
            left.set()

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"", "headers": headers}
    await app({**scope, "http_version": "1.1", "scheme": "http", "server": None, "client": None, "root_path": ""}, receive, send)
    return events


def test_a_client_that_leaves_a_stream_is_noticed_and_logged_as_gone(tmp_path: Path):
    from fine_tune_pipeline.programs.serving.http_gate import Keys
    from fine_tune_pipeline.programs.serving.http_routes import make_app
    from fine_tune_pipeline_tests.programs.serving.serving_stand import ADMIN_KEY, USER_KEY

    with stand(tmp_path / "state") as it:
        it.service.ability = "free"
        it.models.generate = lambda name, prompts, most: spelled(prompts, name, it.models.gate)  # type: ignore[method-assign]
        it.thread._generate = it.models.generate
        it.promote(1)
        it.models.gate.clear()
        app = make_app(it.service, Keys(user=USER_KEY, admin=ADMIN_KEY))
        events = asyncio.run(leave(app, key=USER_KEY, after=2))
        assert b'"content":"bank-v1' in b"".join(events)
        assert b"client_gone" in events[-1]
        it.models.gate.set()
        wait_until(lambda: len(it.log) == 1)
        [row] = it.log.window(9) or [None]
        assert row is None or row.request.status == 499
        assert post(it, CHAT, ask("hello")).status_code == 200


def test_a_model_elsewhere_streams_its_answer_in_one_piece(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        response = post(it, CHAT, ask("hello", stream=True))
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.text.count("bank-v1 says hello") == 1
        assert response.text.endswith("data: [DONE]\n\n")


def test_a_stream_that_fails_before_its_first_piece_is_an_ordinary_error(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        error_of(post(it, CHAT, ask("poison", stream=True)), 500)


def test_ready_means_that_the_champion_has_answered(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        assert "no version has been promoted" in error_of(get(it, "/ready", key=None), 503)["message"]
        it.promote(1)
        assert get(it, "/ready", key=None).json() == {"ready": True}
        it.service.drain()
        assert "being stopped" in error_of(get(it, "/ready", key=None), 503)["message"]


def test_readiness_asks_once_for_all_who_want_to_know_and_again_when_that_is_old():
    now, asked, error = [100.0], [], [RuntimeError("out of memory")]

    async def one_token() -> None:
        asked.append(now[0])
        if error:
            raise error[0]

    async def problems(readiness: Readiness, count: int) -> set[str | None]:
        return set(await asyncio.gather(*(readiness.problem() for _ in range(count))))

    readiness = Readiness(one_token, clock=lambda: now[0])
    assert asyncio.run(problems(readiness, 5)) == {"out of memory"}
    assert asked == [100.0]
    error.clear()
    now[0] += FRESH_SECONDS - 1
    assert asyncio.run(problems(readiness, 1)) == {"out of memory"}
    now[0] += 2
    assert asyncio.run(problems(readiness, 1)) == {None}
    readiness.seen()
    now[0] += FRESH_SECONDS - 1
    assert asyncio.run(problems(readiness, 1)) == {None}
    assert len(asked) == 2


@pytest.mark.parametrize("path", ["/metrics"])
def test_metrics_are_for_those_with_a_key(tmp_path: Path, path: str):
    with stand(tmp_path / "state") as it:
        error_of(get(it, path, key=None), 401)
        assert "ftp_up 1.0" in get(it, path).text
        with suppress(KeyError):
            assert get(it, path).headers["content-type"].startswith("text/plain")
