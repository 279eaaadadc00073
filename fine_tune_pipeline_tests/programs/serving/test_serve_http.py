"""The endpoint over HTTP: who may ask, what is refused and how, and that an answer says who made it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from fine_tune_pipeline.programs.serving.answer_shape import AnswerShape
from fine_tune_pipeline.programs.serving.http_gate import Keys, NoKey
from fine_tune_pipeline.programs.serving.service import Limits
from fine_tune_pipeline_tests.programs.serving.serving_stand import ADMIN_KEY, USER_KEY, Stand, ask, fake_adapter, offered, stand
from fine_tune_pipeline_tests.waiting import wait_until

CHAT = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": ["fees", "lost_card"]}},
    "required": ["intent"],
    "additionalProperties": False,
}


def with_client(it: Stand, talk: Callable[[httpx.AsyncClient], Awaitable[Any]], *, key: str | None = USER_KEY) -> Any:
    async def run() -> Any:
        async with it.client(key) as client:
            return await talk(client)

    return asyncio.run(run())


def post(it: Stand, path: str, body: Any, *, key: str | None = USER_KEY) -> httpx.Response:
    return with_client(it, lambda client: client.post(path, json=body), key=key)


def get(it: Stand, path: str, *, key: str | None = USER_KEY) -> httpx.Response:
    return with_client(it, lambda client: client.get(path), key=key)


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error in OpenAI's shape, and nothing else in the body."""
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def test_an_answer_says_which_version_made_it(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        response = post(it, CHAT, ask("hello", model="bank", user="Ann"))
        body = response.json()
        assert response.headers["x-adapter-sha256"] == it.versions.target(None).sha256
        assert (body["object"], body["model"]) == ("chat.completion", "bank-v1")
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "bank-v1 says hello"}
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        wait_until(lambda: len(it.log) == 1)
        row = it.log.window(1)[0].request
        assert (row.id, row.version, row.arm, row.status, row.confidence) == (body["id"], "1", "champion", 200, -0.5)


def test_text_parts_count_as_one_text(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
        body = post(it, CHAT, {"messages": [{"role": "user", "content": parts}]}).json()
        assert body["choices"][0]["message"]["content"] == "bank-v1 says one two"


TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "I am Ann Smith"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "what is my name?"},
]


def test_a_model_of_conversations_is_asked_with_all_turns_and_the_log_keeps_them_scrubbed(tmp_path: Path):
    with stand(tmp_path / "state", conversations=True) as it:
        it.promote(1)
        body = post(it, CHAT, {"messages": TALK}).json()
        assert body["choices"][0]["message"]["content"] == "bank-v1 says Be kind.\nI am Ann Smith\nHello!\nwhat is my name?"
        assert post(it, "/v1/feedback", {"request_id": body["id"], "corrected": "Ann"}).status_code == 200
        [row] = it.log.corrections()
        assert row["prompt"] == "what is my name?"
        assert [turn["content"] for turn in json.loads(row["before"])["history"]] == ["Be kind.", "I am <PERSON>", "Hello!"]


@pytest.mark.parametrize(
    ("messages", "says"), [(TALK[:3], "the last is of assistant"), ([*TALK, {"role": "user", "content": " "}], "the last message is empty")]
)
def test_a_conversation_ends_with_a_question(tmp_path: Path, messages: list[dict[str, Any]], says: str):
    with stand(tmp_path / "state", conversations=True) as it:
        it.promote(1)
        assert says in error_of(post(it, CHAT, {"messages": messages}), 400)["message"]


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("wrong", 401), (USER_KEY, 200), (ADMIN_KEY, 200)])
def test_a_key_is_needed(tmp_path: Path, key: str | None, status: int):
    with stand(tmp_path / "state") as it:
        response = get(it, "/v1/models", key=key)
        assert response.status_code == status
        if status == 401:
            assert error_of(response, 401)["code"] == "invalid_api_key"


def test_the_admin_route_is_not_for_users_and_health_is_for_everybody(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        assert error_of(post(it, "/admin/sync", {}), 403)["type"] == "permission_error"
        assert post(it, "/admin/sync", {}, key=ADMIN_KEY).status_code == 200
        assert get(it, "/health", key=None).json()["status"] == "ready"


@pytest.mark.parametrize("variables", [{}, {"user": "x" * 16}, {"user": "short", "admin": "y" * 16}, {"user": "x" * 16, "admin": "x" * 16}])
def test_without_two_good_keys_there_is_no_server(variables: dict[str, str]):
    names = {"user": "FINE_TUNE_PIPELINE_API_KEY", "admin": "FINE_TUNE_PIPELINE_ADMIN_KEY"}
    with pytest.raises(NoKey) as refused:
        Keys.from_environment({names[name]: value for name, value in variables.items()})
    assert "FINE_TUNE_PIPELINE" in str(refused.value)
    assert "x" * 16 not in str(refused.value)


def test_keys_are_never_shown():
    assert USER_KEY not in repr(Keys(user=USER_KEY, admin=ADMIN_KEY))


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (ask(n=2), 400, "n: got 2"),
        (ask(temperature=0.7), 400, "temperature: cannot be had here, since the model stays at its provider"),
        (ask(temperature=2.5), 422, "temperature"),
        (ask(top_p=0.5), 400, "top_p: got 0.5"),
        (ask(stop="x"), 400, "stop: cannot be had here"),
        (ask(logprobs=True), 400, "logprobs: cannot be had here"),
        (ask(response_format={"type": "json_object"}), 400, "response_format: cannot be had here"),
        (ask(response_format={"type": "xml"}), 422, "response_format"),
        (ask(stop=["a"] * 5), 422, "stop"),
        (ask(stop=""), 422, "stop"),
        (ask(stop="x", response_format={"type": "json_object"}), 400, "ends by the schema"),
        (ask(top_logprobs=2), 400, "want logprobs: true"),
        (ask(stream_options={"include_usage": True}), 400, "want stream: true"),
        (ask(presence_penalty=0.5), 400, "presence_penalty: got 0.5"),
        (ask(logit_bias={"5": 1}), 400, "logit_bias"),
        (ask(max_tokens=9), 400, "got 9, want at most 8"),
        (ask(" "), 400, "empty"),
        (ask(model="gpt-4"), 404, "'gpt-4' is not served here"),
        (ask(tools=[{"type": "function"}]), 400, "without tools"),
        (ask(tools="hammer"), 422, "tools"),
        (ask(max_tokens="many"), 422, "max_tokens"),
        ({"messages": []}, 422, "messages"),
        ({}, 422, "messages"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, 400, "single questions"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "single questions"),
        ({"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a"}]}, 400, "without an instruction"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 422, "content"),
        (ask("x" * 993), 413, "993 tokens, at most 992"),
    ],
)
def test_what_is_not_served_is_refused_with_the_reason(tmp_path: Path, body: dict[str, Any], status: int, says: str):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        assert says in error_of(post(it, CHAT, body), status)["message"]


@pytest.mark.parametrize(
    ("ability", "wish", "says"),
    [
        ("labels", {"stop": "x"}, "stop: cannot be had here, since the answer is the likeliest of a closed list"),
        ("labels", {"temperature": 1}, "temperature: cannot be had here"),
        ("labels", {"response_format": {"type": "json_object"}}, "response_format: cannot be had here"),
        ("json", {"stop": "x"}, "since answers are kept inside the task's schema"),
    ],
)
def test_what_the_use_case_fixes_no_client_can_change(tmp_path: Path, ability: Any, wish: dict[str, Any], says: str):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        it.service.ability = ability
        error = error_of(post(it, CHAT, ask(**wish)), 400)
        assert says in error["message"]
        assert error["param"] in wish


def test_a_system_message_is_taken_with_the_chat_format_only(tmp_path: Path):
    with stand(tmp_path / "state", style="chat") as it:
        it.promote(1)
        body = {"messages": [{"role": "system", "content": "be kind "}, {"role": "user", "content": "hello"}]}
        assert post(it, CHAT, body).json()["choices"][0]["message"]["content"] == "bank-v1 says be kind hello"


@pytest.mark.parametrize(("content", "code"), [(b"{not json", "invalid_json"), (b"", None)])
def test_a_body_that_is_no_json_is_a_clear_error(tmp_path: Path, content: bytes, code: str | None):
    with stand(tmp_path / "state") as it:
        headers = {"Content-Type": "application/json"}
        response = with_client(it, lambda client: client.post(CHAT, content=content, headers=headers))
        assert response.status_code in (400, 422)
        assert code is None or error_of(response, 400)["code"] == code


def test_another_content_type_and_unknown_routes_are_clear_errors(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        error_of(with_client(it, lambda client: client.post(CHAT, data={"a": "b"})), 415)
        error_of(get(it, "/v2/chat"), 404)
        error_of(get(it, CHAT), 405)


def test_a_body_larger_than_allowed_is_refused_whatever_it_announces(tmp_path: Path):
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 100

    with stand(tmp_path / "state", limits=Limits(body_bytes=1000)) as it:
        headers = {"Content-Type": "application/json"}
        announced = with_client(it, lambda client: client.post(CHAT, content=b" " * 1001, headers=headers))
        assert "1001 bytes" in error_of(announced, 413)["message"]
        streamed = with_client(it, lambda client: client.post(CHAT, content=pieces(), headers=headers))
        assert "at most 1000" in error_of(streamed, 413)["message"]


def test_without_a_champion_the_reason_is_told(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        response = post(it, CHAT, ask())
        assert error_of(response, 503)["code"] == "no_champion"
        assert response.headers["Retry-After"]


def test_a_full_queue_answers_429_and_the_request_is_counted(tmp_path: Path):
    with stand(tmp_path / "state", limits=Limits(waiting=1, batch_rows=1)) as it, ThreadPoolExecutor(2) as pool:
        it.promote(1)
        it.models.gate.clear()
        first = pool.submit(post, it, CHAT, ask("first"))
        assert it.models.entered.wait(20)
        second = pool.submit(post, it, CHAT, ask("second"))
        wait_until(lambda: it.service.health().waiting == 1)
        refused = post(it, CHAT, ask("third"))
        assert error_of(refused, 429)["type"] == "rate_limit_error"
        assert refused.headers["Retry-After"]
        it.models.gate.set()
        assert (first.result().status_code, second.result().status_code) == (200, 200)
        wait_until(lambda: len(it.log) == 3)
        assert sorted(logged.request.status for logged in it.log.window(3)) == [200, 200, 429]


def test_a_request_that_takes_too_long_answers_504_and_leaves_the_queue(tmp_path: Path):
    with stand(tmp_path / "state", limits=Limits(request_seconds=0.3, batch_rows=1)) as it, ThreadPoolExecutor(2) as pool:
        it.promote(1)
        it.models.gate.clear()
        waiting = [pool.submit(post, it, CHAT, ask(text)) for text in ("one", "two")]
        for response in waiting:
            error_of(response.result(), 504)
        assert it.service.health().waiting == 0


def test_a_client_that_leaves_is_dropped_from_the_queue(tmp_path: Path):
    async def leave(it: Stand) -> int:
        """Speaks ASGI directly: a body, then a disconnect."""
        from fine_tune_pipeline.programs.serving.http_routes import make_app

        app = make_app(it.service, Keys(user=USER_KEY, admin=ADMIN_KEY))
        messages = [{"type": "http.request", "body": b'{"messages": [{"role": "user", "content": "hi"}]}', "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {USER_KEY}".encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"", "headers": headers}
        await app({**scope, "http_version": "1.1", "scheme": "http", "server": None, "client": None, "root_path": ""}, receive, send)
        return sent[0]["status"]

    with stand(tmp_path / "state", limits=Limits(batch_rows=1)) as it, ThreadPoolExecutor(1) as pool:
        it.promote(1)
        it.models.gate.clear()
        first = pool.submit(post, it, CHAT, ask("first"))
        assert it.models.entered.wait(20)
        assert asyncio.run(leave(it)) == 499
        assert it.service.health().waiting == 0
        it.models.gate.set()
        assert first.result().status_code == 200


def test_a_batch_that_fails_answers_500_and_the_next_request_is_answered(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        error = error_of(post(it, CHAT, ask("poison")), 500)
        assert error["type"] == "server_error"
        assert post(it, CHAT, ask("hello")).status_code == 200


def test_a_draining_server_answers_what_runs_and_refuses_what_is_new(tmp_path: Path):
    with stand(tmp_path / "state") as it, ThreadPoolExecutor(1) as pool:
        it.promote(1)
        it.models.gate.clear()
        first = pool.submit(post, it, CHAT, ask("first"))
        assert it.models.entered.wait(20)
        it.service.drain()
        assert error_of(post(it, CHAT, ask()), 503)["code"] == "stopping"
        health = get(it, "/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        it.models.gate.set()
        assert first.result().status_code == 200


def test_requests_with_the_admin_key_are_probes_and_no_traffic(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        post(it, CHAT, ask("probe"), key=ADMIN_KEY)
        post(it, CHAT, ask("real", model="bank-v1"))
        post(it, CHAT, ask("base", model="bank-base"))
        wait_until(lambda: len(it.log) == 3)
        assert [logged.request.prompt_scrubbed for logged in it.log.window(9)] == ["real"]


def test_a_sync_that_cannot_be_done_answers_409_with_the_reason(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        it.models.refuse = "bank-v2"
        wish = {"versions": [offered(2, fake_adapter(tmp_path / "new", content="2")).model_dump()], "aliases": {"champion": 2}}
        assert "size mismatch" in error_of(post(it, "/admin/sync", wish, key=ADMIN_KEY), 409)["message"]
        assert post(it, CHAT, ask()).json()["model"] == "bank-v1"


def test_models_are_listed_with_hashes_and_aliases(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        listed = {model["id"]: model for model in get(it, "/v1/models").json()["data"]}
        assert list(listed) == ["bank", "bank-v1", "bank-base"]
        assert (listed["bank"]["root"], listed["bank"]["aliases"]) == ("bank-v1", ["champion"])
        assert listed["bank"]["sha256"] == listed["bank-v1"]["sha256"] != listed["bank-base"]["sha256"]


def test_a_log_that_loses_rows_makes_the_endpoint_degraded_and_it_goes_on_answering(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        it.log.path.mkdir()
        assert post(it, CHAT, ask()).status_code == 200
        wait_until(lambda: it.service.health().log_dropped_total)
        health = it.service.health()
        assert (health.status, health.log_dropped_total) == ("degraded", 1)
        assert get(it, "/health").status_code == 200


def test_feedback_is_kept_scrubbed_and_unknown_or_unusable_feedback_is_refused(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        request_id = post(it, CHAT, ask("hello Ann Smith")).json()["id"]
        said = {"request_id": request_id, "thumb": "down", "corrected": "call Ann Smith"}
        for _ in range(2):
            assert post(it, "/v1/feedback", said).status_code == 200
        assert it.log.corrections() == [{"id": request_id, "prompt": "hello <PERSON>", "completion": "call <PERSON>", "version": "1"}]
        error_of(post(it, "/v1/feedback", {**said, "request_id": "nobody"}), 404)
        error_of(post(it, "/v1/feedback", {"request_id": request_id}), 400)
        error_of(post(it, "/v1/feedback", {**said, "thumb": "sideways"}), 422)


def test_a_correction_that_is_no_valid_answer_is_refused_and_a_valid_one_stays_as_it_is(tmp_path: Path):
    with stand(tmp_path / "state", shape=AnswerShape(schema=SCHEMA)) as it:
        it.promote(1)
        request_id = post(it, CHAT, ask()).json()["id"]
        wrong = error_of(post(it, "/v1/feedback", {"request_id": request_id, "corrected": '{"intent": "weather"}'}), 422)
        assert "intent" in wrong["message"]
        right = '{"intent": "fees"}'
        assert post(it, "/v1/feedback", {"request_id": request_id, "corrected": right}).status_code == 200
        assert it.log.corrections()[0]["completion"] == right
        assert it.log.window(1)[0].request.valid is False


@pytest.mark.parametrize(
    ("shape", "text", "valid", "closed"),
    [
        (AnswerShape(), "anything", True, False),
        (AnswerShape(), "  ", False, False),
        (AnswerShape(labels=("fees", "lost_card")), " fees ", True, True),
        (AnswerShape(labels=("fees", "lost_card")), "Fees", False, True),
        (AnswerShape(schema=SCHEMA), '{"intent": "fees"}', True, True),
        (AnswerShape(schema=SCHEMA), '{"intent": "fees", "note": "x"}', False, True),
        (AnswerShape(schema=SCHEMA), "fees", False, True),
        (AnswerShape(schema={"type": "object", "properties": {"note": {"type": "string"}}}), '{"note": "x"}', True, False),
        (AnswerShape(schema={"type": "object", "properties": {"intent": {"enum": ["a"]}}}), '{"intent": "a", "x": 1}', True, False),
    ],
)
def test_the_shape_of_an_answer(shape: AnswerShape, text: str, valid: bool, closed: bool):
    assert (shape.problem(text) is None, shape.closed) == (valid, closed)
