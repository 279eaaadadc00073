"""Personal data between client and model: refused or masked on the way in, masked on the way out, and nothing unchecked gets through."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.serving.answer_shape import AnswerShape
from fine_tune_pipeline.programs.serving.guard import Guard, NotChecked, PersonalData
from fine_tune_pipeline.programs.serving.guarded import GuardedService
from fine_tune_pipeline.programs.serving.scrubbing_thread import Scrubber, ScrubbingThread
from fine_tune_pipeline.spec.traffic import GuardSpec
from fine_tune_pipeline_tests.programs.serving import serving_stand
from fine_tune_pipeline_tests.programs.serving.serving_stand import ADMIN_KEY, USER_KEY, Stand, ask, scrubber, stand
from fine_tune_pipeline_tests.waiting import wait_until

CHAT = "/v1/chat/completions"


def clean(text: str) -> str:
    if "broken" in text:
        raise LookupError(text)
    return text.replace("Ann Smith", "<PERSON>").replace("4711", "<PHONE_NUMBER>")


@contextmanager
def guarded(folder: Path, monkeypatch: pytest.MonkeyPatch, *, shape: AnswerShape | None = None, **spec: Any) -> Iterator[Stand]:
    def service(**parts: Any) -> GuardedService:
        return GuardedService(guard=GuardSpec(**spec), **parts)

    monkeypatch.setattr(serving_stand, "Service", service)
    monkeypatch.setattr(serving_stand, "clean", clean)
    with stand(folder, shape=shape) as it:
        it.promote(1)
        yield it


def post(it: Stand, prompt: str, key: str = USER_KEY) -> httpx.Response:
    async def run() -> httpx.Response:
        async with it.client(key) as client:
            return await client.post(CHAT, json=ask(prompt))

    return asyncio.run(run())


def stream(it: Stand, prompt: str) -> httpx.Response:
    async def run() -> httpx.Response:
        async with it.client() as client:
            return await client.post(CHAT, json=ask(prompt, stream=True))

    return asyncio.run(run())


def text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_a_question_with_personal_data_is_refused_with_its_kinds_and_without_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with guarded(tmp_path / "state", monkeypatch, pii_in="refuse") as it:
        refused = post(it, "Ann Smith called 4711 and 4711 <PERSON>")
        error = refused.json()["error"]
        assert (refused.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "personal_data")
        assert "1 x PERSON, 2 x PHONE_NUMBER" in error["message"]
        assert "Smith" not in refused.text
        assert text(post(it, "my <PERSON> card")) == "bank-v1 says my <PERSON> card"


def test_the_model_sees_tags_in_the_place_of_personal_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with guarded(tmp_path / "state", monkeypatch, pii_in="mask") as it:
        assert text(post(it, "I am Ann Smith")) == "bank-v1 says I am <PERSON>"
        assert text(post(it, "I am Ann Smith", key=ADMIN_KEY)) == "bank-v1 says I am Ann Smith"


def test_an_answer_leaves_without_personal_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with guarded(tmp_path / "state", monkeypatch, pii_out="mask") as it:
        assert text(post(it, "I am Ann Smith")) == "bank-v1 says I am <PERSON>"


def test_a_stream_leaves_in_one_piece_without_personal_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with guarded(tmp_path / "state", monkeypatch, pii_out="mask") as it:
        response = stream(it, "I am Ann Smith")
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.text.count("bank-v1 says I am <PERSON>") == 1
        assert "Smith" not in response.text


def test_a_stream_that_cannot_be_checked_is_an_error_and_nothing_of_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with guarded(tmp_path / "state", monkeypatch, pii_out="mask") as it:
        response = stream(it, "broken")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_checked")


def test_an_answer_out_of_a_closed_list_leaves_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shape = AnswerShape(labels=("bank-v1 says Ann Smith",))
    with guarded(tmp_path / "state", monkeypatch, shape=shape, pii_out="mask") as it:
        assert text(post(it, "Ann Smith")) == "bank-v1 says Ann Smith"
        assert text(post(it, "Ann Smith!")) == "bank-v1 says <PERSON>!"


@pytest.mark.parametrize("spec", [{"pii_in": "mask"}, {"pii_in": "refuse"}, {"pii_out": "mask"}])
def test_what_could_not_be_checked_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: dict[str, str]):
    with guarded(tmp_path / "state", monkeypatch, **spec) as it:
        refused = post(it, "broken Ann Smith")
        assert refused.status_code == 503
        assert "LookupError" in refused.json()["error"]["message"]
        assert "Smith" not in refused.text
        assert text(post(it, "hello")) == "bank-v1 says hello"


def test_all_that_people_wrote_is_masked_and_tools_stay_as_they_are():
    scrubbing = ScrubbingThread(lambda: scrubber(clean))
    guard = Guard(GuardSpec(pii_in="mask"), scrubbing=scrubbing)
    call = {"id": "4711", "type": "function", "function": {"name": "find", "arguments": '{"who": "Ann Smith"}'}}
    history = [
        {"role": "user", "content": "Ann Smith here"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    tools = [{"type": "function", "function": {"name": "find", "description": "looks Ann Smith up"}}]
    asked, system = asyncio.run(guard.inward(Asked("I am Ann Smith", history=history, tools=tools), "For Ann Smith."))
    assert (asked.prompt, system) == ("I am <PERSON>", "For <PERSON>.")
    assert asked.history[0]["content"] == "<PERSON> here"
    assert asked.history[1]["tool_calls"][0]["function"]["arguments"] == '{"who": "<PERSON>"}'
    assert asked.tools == tools
    scrubbing.close()


def test_a_guard_that_is_off_looks_at_nothing():
    def never() -> Scrubber:
        raise LookupError("no scrubber")

    scrubbing = ScrubbingThread(never)
    guard = Guard(GuardSpec(), scrubbing=scrubbing)
    asked = Asked("Ann Smith")
    assert asyncio.run(guard.inward(asked, "s")) == (asked, "s")
    assert asyncio.run(guard.outward("Ann Smith", closed=False)) == "Ann Smith"
    on = Guard(GuardSpec(pii_in="refuse"), scrubbing=scrubbing)
    with pytest.raises(NotChecked):
        asyncio.run(on.inward(asked, ""))
    assert issubclass(PersonalData, ValueError)
    scrubbing.close()


def test_the_log_of_a_guarded_endpoint_holds_what_the_model_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with guarded(tmp_path / "state", monkeypatch, pii_in="mask") as it:
        post(it, "I am Ann Smith")
        wait_until(lambda: len(it.log) == 1 and it.log.window(1)[0].request.prompt_scrubbed)
        assert it.log.window(1)[0].request.prompt_scrubbed == "I am <PERSON>"
