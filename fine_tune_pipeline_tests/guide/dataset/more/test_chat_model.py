"""Asked once, tried a few times, stopped where it makes no sense to go on."""

import json

import pytest
from upath import UPath

from fine_tune_pipeline.artifacts.replies import Replies
from fine_tune_pipeline.guide.dataset.more.chat_model import (
    Chat,
    ModelRefused,
    ModelUnreachable,
    NoAnswer,
    NoModelKey,
    Question,
)
from fine_tune_pipeline.programs.chat_api import LONGEST_WAIT_SECONDS
from fine_tune_pipeline.spec.more import ChatModel
from fine_tune_pipeline_tests.guide.dataset.model_server import model_server, said

ASK = [Question("Be kind.", f"question {number}") for number in range(6)]


class Asker:
    """A chat whose waits are written down instead of waited."""

    def __init__(self, folder, url, **fields):
        self.waits = []
        self.chat = Chat(ChatModel(url=url, model="tiny", **fields), Replies(UPath(folder)), wait=self.waits.append)

    def answers(self, questions=ASK):
        return self.chat.answers(questions)


def echo(request, before):
    return said(f" re: {request['messages'][1]['content']}\n")


def test_answers_come_in_order_and_a_second_run_asks_nothing(tmp_path):
    with model_server(echo) as model:
        assert Asker(tmp_path, model.url).answers() == [f"re: question {number}" for number in range(6)]
        assert sorted(model.users()) == [question.user for question in ASK]
        assert model.asked[0]["path"] == "/v1/chat/completions"
        assert {key: model.asked[0][key] for key in ("model", "temperature", "max_tokens", "seed")} == {
            "model": "tiny", "temperature": 0.7, "max_tokens": 500, "seed": 0,
        }  # fmt: skip
    # The server is gone: what it said is kept.
    assert Asker(tmp_path, model.url).answers() == [f"re: question {number}" for number in range(6)]


def test_another_model_temperature_or_number_is_another_question(tmp_path):
    with model_server(echo) as model:
        Asker(tmp_path, model.url).answers(ASK[:1])
        Asker(tmp_path, model.url, temperature=0.1).answers(ASK[:1])
        Asker(tmp_path, model.url).answers([Question("Be kind.", "question 0", 1)])
        Asker(tmp_path, model.url + "/", parallel=1, timeout_seconds=9).answers(ASK[:1])
        assert len(model.asked) == 3


def test_the_key_comes_from_the_environment_and_lies_nowhere(tmp_path, monkeypatch):
    with model_server(echo) as model:
        monkeypatch.delenv("OWN_KEY", raising=False)
        with pytest.raises(NoModelKey, match="OWN_KEY is not set"):
            Asker(tmp_path, model.url, key_variable="OWN_KEY").answers()
        monkeypatch.setenv("OWN_KEY", "sk-very-secret")
        Asker(tmp_path, model.url, key_variable="OWN_KEY").answers()
        assert model.asked[0]["headers"]["Authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again_after_a_wait(tmp_path, status):
    def answer(request, before):
        return (status, {"error": "later"}, {"Retry-After": "7"} if status == 429 else {}) if before < 2 else echo(request, before)

    with model_server(answer) as model:
        asker = Asker(tmp_path, model.url)
        assert asker.answers(ASK[:1]) == ["re: question 0"]
    assert len(asker.waits) == 2
    assert asker.waits == [7.0, 7.0] if status == 429 else 0.5 <= asker.waits[0] <= 1 <= asker.waits[1] <= 2


def test_no_server_makes_it_wait_longer_than_the_limit(tmp_path):
    def answer(request, before):
        return (429, {}, {"Retry-After": "86400"}) if before == 0 else echo(request, before)

    with model_server(answer) as model:
        asker = Asker(tmp_path, model.url)
        asker.answers(ASK[:1])
    assert asker.waits == [LONGEST_WAIT_SECONDS]


def test_one_question_that_never_works_does_not_stop_the_others_and_is_asked_again_next_time(tmp_path):
    def answer(request, before):
        return (500, {"error": "no"}, {}) if request["messages"][1]["content"] == "question 2" else echo(request, before)

    with model_server(answer) as model:
        found = Asker(tmp_path, model.url).answers()
        assert found[2] == NoAnswer("model_did_not_answer", 'status 500: {"error": "no"} (3 tries)')
        assert sum(isinstance(answer, str) for answer in found) == 5
        asked = len(model.asked)
        Asker(tmp_path, model.url, tries=1).answers([*ASK[:3], Question("", "new")])
        assert len(model.asked) == asked + 2


@pytest.mark.parametrize(
    ("status", "content", "reason"),
    [(400, {"error": "too long"}, "model_refused"), (200, {"x": 1}, "unreadable_answer"), (200, [], "unreadable_answer")],
)
def test_what_will_not_pass_is_not_tried_again(tmp_path, status, content, reason):
    with model_server(lambda request, before: (status, content, {})) as model:
        [answer] = Asker(tmp_path, model.url).answers(ASK[:1])
        assert (answer.reason, len(model.asked)) == (reason, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_stops_everything(tmp_path, status):
    with (
        model_server(lambda request, before: (status, {"error": "nope"}, {})) as model,
        pytest.raises(ModelRefused, match=rf"{status} to tiny.*nope"),
    ):
        Asker(tmp_path, model.url, parallel=1).answers()
    assert len(model.asked) == 1


def test_a_server_that_is_not_there_stops_everything_after_one_round(tmp_path):
    with model_server(echo) as model:
        pass
    asker = Asker(tmp_path, model.url, parallel=2, tries=2)
    with pytest.raises(ModelUnreachable, match="no answer to any of 2 questions: ConnectError"):
        asker.answers()
    assert len(asker.waits) == 2


def test_what_is_kept_can_be_read_by_people(tmp_path):
    with model_server(echo) as model:
        Asker(tmp_path, model.url).answers(ASK[:1])
    [path] = tmp_path.iterdir()
    assert json.loads(path.read_text())["answer"] == "re: question 0"
