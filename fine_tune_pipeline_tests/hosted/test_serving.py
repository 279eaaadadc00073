"""The models of a hosted endpoint: what a client gets when the provider answers, refuses, or does not answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.hosted.predict import Reply
from fine_tune_pipeline.programs.hosted.requests import write_hosted
from fine_tune_pipeline.programs.hosted.serving import HostedModels, UnusableTunedModel, remote_prompts
from fine_tune_pipeline.programs.hosted.upstream import UpstreamBusy, UpstreamFailed, UpstreamNotSetUp, UpstreamRefused
from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.model_thread import ModelThread
from fine_tune_pipeline_tests.hosted.stand_in import KEY, VARIABLE, Content, Fault, Provider, provider_stand_in

PROMPT = remote_prompts(PromptFormat(style="chat"))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv(VARIABLE, KEY)
    with provider_stand_in(answer=echo) as found:
        yield found


def echo(request: Content) -> str:
    return f"{request['model']} says {request['messages'][-1]['content']}"


def test_prompts_are_sent_as_written_and_answered_in_their_order(provider):
    models = HostedModels(provider.hosted(), base_name="bank-base")
    prompts = [PROMPT(Asked(f"question {number}"), "Be brief.") for number in range(9)]
    answers = models.generate("bank-base", prompts, 50)
    assert [answer.text for answer in answers if isinstance(answer, Reply)] == [
        f"gpt-test-mini says question {number}" for number in range(9)
    ]
    asked = provider.requests("POST /v1/chat")[0]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (asked["temperature"], asked["max_tokens"]) == (0, 50)
    assert len(PROMPT(Asked("x" * 350), "")) == 103


def test_passages_that_were_looked_up_are_sent_before_the_question():
    prompt = PROMPT(Asked("what is the fee", context=[{"text": "The fee is five."}]), "")
    assert prompt.turns == [{"role": "user", "content": "Context: The fee is five.\n\nwhat is the fee"}]


@pytest.mark.parametrize(
    ("status", "error"), [(429, UpstreamBusy), (400, UpstreamRefused), (401, UpstreamFailed), (404, UpstreamFailed), (500, UpstreamFailed)]
)
def test_a_request_that_fails_takes_no_other_with_it_and_tells_nothing_of_the_account(provider, status, error):
    models = HostedModels(provider.hosted().model_copy(update={"requests_at_once": 1}), base_name="bank-base")
    provider.faults = [Fault("POST /v1/chat", status, times=2 if status in (429, 500) else 1)]
    failed, answered = models.generate("bank-base", [PROMPT(Asked("first"), ""), PROMPT(Asked("second"), "")], 50)
    assert type(failed) is error
    assert provider.url not in str(failed)
    assert isinstance(answered, Reply)


def test_the_thread_gives_each_request_its_own_answer_or_error():
    thread: ModelThread[str] = ModelThread(lambda name, prompts, most: [RuntimeError(p) if p == "bad" else p for p in prompts])
    bad, good = thread_answers(thread, ["bad", "good"])
    assert isinstance(bad, RuntimeError)
    assert good == "good"


def thread_answers(thread: ModelThread[str], prompts: list[str]) -> list[object]:
    thread.start()
    waiting = [thread.submit("model", prompt, max_new_tokens=1) for prompt in prompts]
    found = [future.exception(timeout=20) or future.result() for future in waiting]
    thread.drain()
    assert thread.join(20)
    return found


def test_a_tuned_model_is_served_under_its_version_and_one_of_another_provider_is_refused(provider, tmp_path: Path):
    models = HostedModels(provider.hosted(), base_name="bank-base")
    provider.models.append({"id": "ft:tuned"})
    own = write_hosted(tmp_path / "own", provider.hosted("ft:tuned"))
    models.load("bank-v1", own)
    [answer] = models.generate("bank-v1", [PROMPT(Asked("hello"), "")], 5)
    assert isinstance(answer, Reply)
    assert answer.text == "ft:tuned says hello"
    foreign = write_hosted(
        tmp_path / "foreign", provider.hosted("ft:tuned").model_copy(update={"base_url": "https://elsewhere.example/v1"})
    )
    with pytest.raises(UnusableTunedModel, match=f"names no model of {provider.url}"):
        models.load("bank-v2", foreign)
    assert weights_sha256(own) != weights_sha256(foreign)


def test_without_a_key_the_endpoint_is_not_started_again_and_again(provider, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(UpstreamNotSetUp, match=VARIABLE):
        HostedModels(provider.hosted(), base_name="bank-base")
