"""What comes from a vLLM server, well-formed or not, without any server."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from fine_tune_pipeline.programs.vllm.completions import Completion, complete, events
from fine_tune_pipeline.programs.vllm.replica import Replica, ReplicaBusy, ReplicaDown, ReplicaError, ReplicaRefused, ReplicaSlow

REPLICA = Replica("http://vllm:8000", httpx.Client(), "key")
STREAM = {"content-type": "text/event-stream; charset=utf-8"}


def split(blocks: Sequence[bytes]) -> list[bytes]:
    async def given() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    async def found() -> list[bytes]:
        return [data async for data in events(given())]

    return asyncio.run(found())


def asked(response: httpx.Response, *, heard: list[str] | None = None) -> Completion:
    """The answer to one request; with `heard` it is asked for as a stream, and the text so far goes there."""

    async def answered() -> Completion:
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: response)) as http:
            hear = None if heard is None else lambda text, scores: heard.append(text)
            return await complete(REPLICA, http, {"model": "base"}, seconds=5, hear=hear)

    return asyncio.run(answered())


def chunk(text: str, reason: str | None = None, **more: Any) -> str:
    return f"data: {json.dumps({'choices': [{'text': text, 'finish_reason': reason}], **more}, ensure_ascii=False)}\n\n"


def test_events_are_found_however_the_bytes_are_cut():
    text = b'data: {"a": 1}\r\n\r\n: ping\n\nevent: x\ndata:{"b": "\xc3\xa9"}\n\ndata: [DONE]\n\ndata: late\n\n'
    for size in (1, 2, 7, len(text)):
        assert split([text[start : start + size] for start in range(0, len(text), size)]) == [b'{"a": 1}', b'{"b": "\xc3\xa9"}']
    assert split([b"data: whole\n\ndata: cut o"]) == [b"whole"]


def test_characters_that_end_lines_elsewhere_end_none_here():
    odd = "a\u2028b\u2029c\u0085d\u000be"
    heard: list[str] = []
    body = chunk(odd) + chunk("", "stop") + "data: [DONE]\n\n"
    assert asked(httpx.Response(200, content=body.encode(), headers=STREAM), heard=heard).text == odd
    assert heard == [odd, odd]


def test_a_stream_is_its_texts_its_usage_and_how_it_ended():
    heard: list[str] = []
    logprobs = {"tokens": [" a"], "token_logprobs": [-0.5], "top_logprobs": [{" a": -0.5}]}
    first = f"data: {json.dumps({'choices': [{'text': ' a', 'logprobs': logprobs, 'finish_reason': None}]})}\n\n"
    usage = f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': 7}})}\n\n"
    body = first + chunk(" b", "length") + usage + "data: [DONE]\n\n"
    found = asked(httpx.Response(200, content=body.encode(), headers=STREAM), heard=heard)
    assert (found.text, found.tokens, found.finished, found.logprob) == (" a b", 7, False, -0.5)
    assert heard == [" a", " a b", " a b"]


def test_a_server_that_answers_whole_although_a_stream_was_asked_for_is_understood():
    heard: list[str] = []
    body = {"choices": [{"text": "x", "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}
    assert asked(httpx.Response(200, json=body), heard=heard) == Completion("x", 1, None, True, ())
    assert heard == []


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (chunk("a"), ReplicaDown, "no finish_reason"),
        (chunk("a", "abort"), ReplicaDown, r"broke an answer off \(abort\)"),
        ("data: not json\n\n", ReplicaDown, "no JSON"),
        ("data: [1]\n\n", ReplicaDown, "list, want an object"),
        ('data: {"choices": ["x"]}\n\n', ReplicaDown, "something else than a completion"),
        ('data: {"error": {"message": "engine died", "code": 500}}\n\n', ReplicaDown, "engine died"),
        ('data: {"error": {"message": "too long", "code": 400}}\n\n', ReplicaRefused, "too long"),
        ('data: {"error": {"message": "wait", "code": 429}}\n\n', ReplicaBusy, "wait"),
        ('data: {"error": {"message": "late", "code": 408}}\n\n', ReplicaSlow, "late"),
        ('data: {"error": "odd"}\n\n', ReplicaDown, "HTTP 500: odd"),
    ],
)
def test_a_stream_that_goes_wrong_is_an_error_that_names_the_server(content: str, error: type[ReplicaError], said: str):
    with pytest.raises(error, match=said) as raised:
        asked(httpx.Response(200, content=content.encode(), headers=STREAM), heard=[])
    assert "http://vllm:8000" in str(raised.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [("[]", "list, want an object"), ("hello", "something else than JSON"), ('{"choices": [{"text": "a"}]}', "no finish_reason")],
)
def test_a_whole_answer_that_is_none_is_an_error_that_names_the_server(body: str, said: str):
    with pytest.raises(ReplicaDown, match=said) as raised:
        asked(httpx.Response(200, content=body.encode()))
    assert "http://vllm:8000" in str(raised.value)
