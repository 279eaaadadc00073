"""OpenAI's own client asks the endpoint for streams while vLLM computes them: token by token, and whatever goes wrong on the way."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from fine_tune_pipeline.artifacts.traffic import ServedRequest
from fine_tune_pipeline.programs.decoding_requests import JsonDecoding, LabelDecoding
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.wishes import Wanted, Wish
from fine_tune_pipeline.programs.vllm.asking import TRIES
from fine_tune_pipeline.programs.vllm.serving import VllmModels
from fine_tune_pipeline.spec.traffic import GuardSpec
from fine_tune_pipeline_tests.programs.serving.api_stand import Api, api
from fine_tune_pipeline_tests.programs.vllm.fake_vllm import KEY, VARIABLE, WAIT, Fault, Vllm
from fine_tune_pipeline_tests.programs.vllm.streams import Break, Streams
from fine_tune_pipeline_tests.programs.vllm.world import BASE, Ear, Rig, Weights, rig
from fine_tune_pipeline_tests.served import NEW_TOKENS, PROMPTS
from fine_tune_pipeline_tests.waiting import wait_until

COMPLETIONS = "/v1/completions"
MIDDLE = 12
"""Tokens after which some of the answer has been said, though the last six characters wait for a stop string."""


@dataclass
class Front:
    """The endpoint, the server behind it, and a client before it."""

    api: Api
    server: Vllm
    client: openai.OpenAI

    @property
    def models(self) -> Any:
        return self.api.service.versions._models

    def row(self, id: str) -> ServedRequest:
        """What the log has of a request."""

        def found() -> ServedRequest | None:
            rows = [logged.request for logged in self.api.log.window(999) if logged.request.id == id]
            assert len(rows) <= 1
            # Its texts come when the scrubber has seen them.
            return rows[0] if rows and (rows[0].answer_scrubbed is not None or rows[0].status != 200) else None

        return wait_until(found)

    def last_row(self, *, status: int) -> ServedRequest:
        def found() -> ServedRequest | None:
            rows = self.api.log.window(1)
            return rows[0].request if rows and rows[0].request.status == status else None

        return wait_until(found)


@contextmanager
def fronted(made: Rig, **changes: Any) -> Iterator[Front]:
    """An endpoint in front of a rig's first server, whose first version is champion."""
    with api(made.weights.base, made.folder / "state", vllm=made.upstream(), **changes) as found:
        found.promote(1, made.weights.adapters)
        with found.client() as client:
            yield Front(found, made.servers[0], client)
        made.servers[0].streams.more.set()
    models: Any = found.service.versions._models
    models.close()


@pytest.fixture(scope="module")
def built(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with pytest.MonkeyPatch.context() as patch, rig(weights, tmp_path_factory.mktemp("front"), servers=1) as made:
        patch.setenv(VARIABLE, KEY)
        with fronted(made) as front:
            yield front


@pytest.fixture
def front(built: Front) -> Iterator[Front]:
    server = built.server
    server.streams, server.faults = Streams(), []
    server.asked.clear()
    yield built
    server.streams.more.set()
    server.open.set()


def chat(client: openai.OpenAI, prompt: str, **wishes: Any) -> Any:
    return client.chat.completions.create(**{"model": "bank", "messages": [{"role": "user", "content": prompt}], **wishes})


def text(client: openai.OpenAI, prompt: str, **wishes: Any) -> str:
    return chat(client, prompt, **wishes).choices[0].message.content


def said(chunk: Any) -> str:
    return chunk.choices[0].delta.content or "" if chunk.choices else ""


def begun(front: Front, prompt: str = PROMPTS[0], **wishes: Any) -> tuple[Any, list[Any]]:
    """A stream of which a piece has come, and its events so far."""
    stream, chunks = chat(front.client, prompt, stream=True, **wishes), []
    while not chunks or not said(chunks[-1]):
        chunks.append(next(stream))
    return stream, chunks


def test_pieces_reach_the_client_while_vllm_still_writes(front: Front):
    whole = text(front.client, PROMPTS[0])
    front.server.streams.hold_after = MIDDLE
    stream, chunks = begun(front)
    wait_until(lambda: front.server.streams.computed == MIDDLE + 1)
    assert front.server.streams.finished == 0
    front.server.streams.more.set()
    chunks += list(stream)
    assert "".join(map(said, chunks)) == whole
    assert len([chunk for chunk in chunks if said(chunk)]) > 2
    assert front.server.streams.finished == 1
    row = front.row(chunks[0].id)
    assert (row.status, row.answer_scrubbed, row.version) == (200, whole, "1")


def test_vllm_is_asked_for_a_stream_where_its_client_wants_one_and_only_there(front: Front):
    text(front.client, PROMPTS[0])
    list(chat(front.client, PROMPTS[0], stream=True))
    whole, streamed = front.server.requests(COMPLETIONS)
    assert streamed == {**whole, "stream": True, "stream_options": {"include_usage": True}}
    assert "stream" not in whole


WISHES: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 7, "top_p": 0.9},
    {"logprobs": True, "top_logprobs": 2},
    {"max_tokens": 3},
    {"stop": ["e", "never there"], "logprobs": True},
]


@pytest.mark.parametrize("wishes", WISHES, ids=["plain", "drawn", "logprobs", "cut", "stop"])
def test_the_pieces_of_a_stream_are_the_whole_answer(front: Front, wishes: dict[str, Any]):
    for prompt in PROMPTS:
        whole = chat(front.client, prompt, **wishes)
        chunks = list(chat(front.client, prompt, stream=True, stream_options={"include_usage": True}, **wishes))
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
        assert "".join(map(said, chunks)) == whole.choices[0].message.content
        assert [choice.finish_reason for choice in choices] == [None] * (len(choices) - 1) + [whole.choices[0].finish_reason]
        assert [chunk.usage for chunk in chunks] == [None] * (len(chunks) - 1) + [whole.usage]
        if wishes.get("logprobs"):
            scores = [score for choice in choices if choice.logprobs for score in choice.logprobs.content]
            assert scores == whole.choices[0].logprobs.content


def test_a_plain_completion_streams_too(front: Front):
    asked = {"model": "bank-v2", "prompt": PROMPTS[1], "logprobs": 2}
    whole = front.client.completions.create(**asked)
    chunks = list(front.client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    tokens = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.tokens]
    assert tokens == whole.choices[0].logprobs.tokens
    assert {chunk.model for chunk in chunks} == {"bank-v2"}


@pytest.mark.parametrize("how", ["connection", "error", "abort", "no end"])
def test_when_vllm_dies_in_the_middle_the_client_is_told_and_nobody_else_is_asked(front: Front, how: Any):
    front.server.streams.breaks = Break(MIDDLE, how)
    stream, chunks = begun(front)
    with pytest.raises(openai.APIError, match="the model server broke the answer off; ask again") as raised:
        chunks += list(stream)
    assert raised.value.code == "provider_failed"
    assert len(front.server.requests(COMPLETIONS)) == 1
    row = front.row(chunks[0].id)
    assert (row.status, row.answer_scrubbed or "", row.new_tokens, row.valid) == (502, "", 0, None)
    assert text(front.client, PROMPTS[0]).startswith("".join(map(said, chunks)))


@pytest.mark.parametrize("how", ["connection", "error", "abort", "no end"])
@pytest.mark.parametrize("after", [0, 1])
def test_before_the_first_piece_another_try_is_made_and_the_client_notices_nothing(front: Front, how: Any, after: int):
    whole = text(front.client, PROMPTS[0])
    front.server.streams.breaks = Break(after, how)
    chunks = list(chat(front.client, PROMPTS[0], stream=True))
    assert "".join(map(said, chunks)) == whole
    assert len(front.server.requests(COMPLETIONS)) == 3
    assert front.row(chunks[0].id).status == 200


def test_what_fails_before_the_first_piece_has_a_status_of_its_own(front: Front):
    front.server.streams.breaks = Break(1, "connection", times=TRIES)
    with pytest.raises(openai.InternalServerError, match="does not answer") as raised:
        chat(front.client, PROMPTS[0], stream=True)
    assert raised.value.status_code == 502
    front.last_row(status=502)
    assert len(front.server.requests(COMPLETIONS)) == TRIES
    front.server.faults = [Fault(COMPLETIONS, 429)]
    with pytest.raises(openai.RateLimitError, match="patience"):
        chat(front.client, PROMPTS[0], stream=True)
    front.server.faults = [Fault(COMPLETIONS, 400)]
    with pytest.raises(openai.BadRequestError, match="does not take this request"):
        chat(front.client, PROMPTS[0], stream=True)


def test_when_the_client_leaves_vllm_computes_no_further(front: Front):
    front.server.streams.hold_after = MIDDLE
    stream, chunks = begun(front)
    wait_until(lambda: front.server.streams.computed == MIDDLE + 1)
    stream.close()
    wait_until(lambda: front.server.streams.left == 1)
    assert (front.server.streams.computed, front.server.streams.finished) == (MIDDLE + 1, 0)
    assert front.row(chunks[0].id).status == 499
    assert text(front.client, PROMPTS[0])


def test_when_the_client_of_a_whole_answer_leaves_its_request_at_vllm_is_closed(front: Front):
    front.server.open.clear()
    front.server.entered.clear()
    with pytest.raises(openai.APITimeoutError):
        chat(front.client.with_options(timeout=0.3), PROMPTS[0])
    assert front.server.entered.is_set()
    front.last_row(status=499)
    front.server.open.set()
    wait_until(lambda: front.server.streams.left == 1)
    assert text(front.client, PROMPTS[0])


def test_an_answer_that_stops_coming_is_waited_for_as_long_as_one_may_take(front: Front, monkeypatch: pytest.MonkeyPatch):
    asking = front.models._asking
    monkeypatch.setattr(asking, "_upstream", asking._upstream.model_copy(update={"timeout_seconds": 0.5}))
    front.server.streams.hold_after = MIDDLE
    stream, chunks = begun(front)
    with pytest.raises(openai.APIError, match="did not answer in time") as raised:
        list(stream)
    assert raised.value.code == "timeout"
    assert front.row(chunks[0].id).status == 504
    wait_until(lambda: front.server.streams.left == 1)
    assert len(front.server.requests(COMPLETIONS)) == 1


def test_answers_that_a_guard_looks_at_come_in_one_piece_and_are_asked_for_whole(one: Rig):
    with fronted(one, guard=GuardSpec(pii_out="mask")) as front:
        chunks = list(chat(front.client, PROMPTS[0], stream=True))
        assert [said(chunk) for chunk in chunks if said(chunk)] == [text(front.client, PROMPTS[0])]
    assert all("stream" not in body for body in one.servers[0].requests(COMPLETIONS))


@pytest.mark.parametrize(("decoding", "streams"), [(LabelDecoding(labels=("a", "b")), False), (JsonDecoding(answer_schema={}), True)])
def test_answers_out_of_a_list_come_whole_and_those_inside_a_schema_in_pieces(one: Rig, decoding: Any, streams: bool):
    made = VllmModels(one.upstream(), base_name=BASE, model=one.weights.base, format=PromptFormat(), state=one.folder, decoding=decoding)
    ear = Ear(streams=True)
    found = made.generate(BASE, [Wanted(one.weights.prompts[0], 24, Wish(), ear)], NEW_TOKENS)[0].result(WAIT)
    made.close()
    (body,) = one.servers[0].requests(COMPLETIONS)
    assert body.get("stream", False) is streams
    assert "".join(ear.texts) == (found.text if streams else "")
    assert (len(ear.texts) > 1) is streams
