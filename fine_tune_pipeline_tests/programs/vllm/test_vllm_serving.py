"""What those who ask get when vLLM answers, fails, is slow, or has lost an adapter; answers are really computed."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fine_tune_pipeline.programs.decoding_requests import JsonDecoding, LabelDecoding
from fine_tune_pipeline.programs.hosted.upstream import UpstreamBusy, UpstreamFailed, UpstreamNotSetUp, UpstreamRefused, UpstreamSlow
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.model_thread import Draining, ModelThread
from fine_tune_pipeline.programs.vllm.asking import TRIES
from fine_tune_pipeline.programs.vllm.completions import Completion
from fine_tune_pipeline.programs.vllm.replica import ReplicaDown
from fine_tune_pipeline.programs.vllm.serving import UnknownModel, structured
from fine_tune_pipeline_tests.programs.vllm.fake_vllm import VARIABLE, WAIT, Fault
from fine_tune_pipeline_tests.programs.vllm.world import BASE, Rig
from fine_tune_pipeline_tests.served import NEW_TOKENS
from fine_tune_pipeline_tests.waiting import wait_until

COMPLETIONS = "/v1/completions"


def asked(models: Any, name: str, rig: Rig) -> list[Any]:
    return [future.result(WAIT) for future in models.generate(name, rig.weights.prompts, NEW_TOKENS)]


def error_of(models: Any, rig: Rig, name: str = BASE) -> BaseException | None:
    return models.generate(name, rig.weights.prompts[:1], NEW_TOKENS)[0].exception(WAIT)


def test_served_answers_are_the_evaluated_ones_of_each_version_asked_for_together_at_two_replicas(two: Rig):
    with two.models() as models:
        for name, folder in zip(("bank-v1", "bank-v2"), two.weights.adapters, strict=True):
            models.load(name, folder).result(WAIT)
        with ThreadPoolExecutor(3) as pool:
            found = dict(zip(two.weights.answers, pool.map(lambda name: asked(models, name, two), two.weights.answers), strict=True))
    for name, wanted in two.weights.answers.items():
        assert [(answer.text, answer.tokens, answer.finished) for answer in found[name]] == [
            (answer.text, answer.tokens, answer.finished) for answer in wanted
        ]
        assert all(math.isclose(one.logprob, other.logprob, abs_tol=1e-4) for one, other in zip(found[name], wanted, strict=True))
    assert all(server.requests(COMPLETIONS) for server in two.servers)
    assert len({answer.text for name in found for answer in found[name][:1]}) == 3


def test_a_request_says_all_that_vllm_would_else_take_from_the_model(one: Rig):
    with one.models() as models:
        asked(models, BASE, one)
    (first, *_) = one.servers[0].requests(COMPLETIONS)
    assert first == {
        "model": "base",
        "prompt": first["prompt"],
        "add_special_tokens": False,
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "repetition_penalty": 1.0,
        "logprobs": 1,
        "stop_token_ids": [1],
        "stop": ["\nInput:"],
    }
    assert first["prompt"] in one.weights.prompts


def test_answers_are_kept_to_labels_or_a_schema_by_vllms_own_means():
    labels = structured(LabelDecoding(labels=("fees", "fraud")), format=PromptFormat())
    assert labels == {"choice": [" fees", " fraud"]}
    schema = {"type": "object", "properties": {"intent": {"type": "string"}}}
    assert structured(JsonDecoding(answer_schema=schema), format=PromptFormat(style="chat")) == {"json": schema}


def test_when_a_replica_fails_while_answering_another_takes_over_and_the_failed_one_rests(two: Rig):
    with two.models() as models:
        two.servers[0].faults = [Fault(COMPLETIONS, 500, times=99)]
        assert [answer.text for answer in asked(models, BASE, two)] == [answer.text for answer in two.weights.answers[BASE]]
        before = len(two.servers[0].requests(COMPLETIONS))
        asked(models, BASE, two)
    assert len(two.servers[0].requests(COMPLETIONS)) == before <= len(two.weights.prompts)


@pytest.mark.parametrize("fault", ["closes the connection", "is being stopped"])
def test_an_answer_that_is_broken_off_is_asked_for_again(one: Rig, fault: str):
    with one.models() as models:
        if fault == "closes the connection":
            one.servers[0].faults = [Fault(COMPLETIONS, 0)]
        else:
            one.servers[0].abort = True
        first = models.generate(BASE, one.weights.prompts[:1], NEW_TOKENS)[0]
        if fault == "is being stopped":
            wait_until(lambda: one.servers[0].requests(COMPLETIONS))
            one.servers[0].abort = False
        assert first.result(WAIT).text == one.weights.answers[BASE][0].text


def test_a_server_that_stays_broken_is_asked_so_often_and_no_more(one: Rig):
    with one.models() as models:
        one.servers[0].faults = [Fault(COMPLETIONS, 503, times=99)]
        assert isinstance(error_of(models, one), UpstreamFailed)
    assert len(one.servers[0].requests(COMPLETIONS)) == TRIES


@pytest.mark.parametrize(("status", "error"), [(429, UpstreamBusy), (400, UpstreamRefused), (401, UpstreamFailed)])
def test_what_asking_again_would_not_mend_is_told_at_once_without_the_servers_address(one: Rig, status: int, error: type[Exception]):
    with one.models() as models:
        one.servers[0].faults = [Fault(COMPLETIONS, status)]
        seen = error_of(models, one)
        assert type(seen) is error
        assert one.servers[0].url not in str(seen)
        assert error_of(models, one) is None
    assert len(one.servers[0].requests(COMPLETIONS)) == 2


def test_a_server_that_does_not_answer_in_time_is_not_waited_for(one: Rig):
    with one.models(timeout_seconds=0.3) as models:
        one.servers[0].open.clear()
        assert isinstance(error_of(models, one), UpstreamSlow)


@pytest.mark.parametrize("rig_name", ["one", "two"])
def test_a_replica_that_was_started_anew_gets_its_adapters_back_and_no_request_fails(request: pytest.FixtureRequest, rig_name: str):
    rig: Rig = request.getfixturevalue(rig_name)
    with rig.models() as models:
        models.load("bank-v1", rig.weights.adapters[0]).result(WAIT)
        for _ in range(3):
            rig.servers[0].restart()
            assert [answer.text for answer in asked(models, "bank-v1", rig)] == [answer.text for answer in rig.weights.answers["bank-v1"]]
    loads = len(rig.servers[0].requests("/v1/load_lora_adapter"))
    assert loads == 4 if rig_name == "one" else loads >= 1


def test_a_version_that_is_not_loaded_is_not_asked_for(one: Rig):
    with one.models() as models, pytest.raises(UnknownModel, match="bank-v7: not loaded; loaded are none"):
        models.generate("bank-v7", one.weights.prompts, NEW_TOKENS)
    assert one.servers[0].requests(COMPLETIONS) == []


def test_no_more_requests_are_at_the_servers_than_may_be(two: Rig):
    with two.models(requests_at_once=2) as models:
        for server in two.servers:
            server.open.clear()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(models.generate, BASE, two.weights.prompts, NEW_TOKENS)
            wait_until(lambda: sum(len(server.requests(COMPLETIONS)) for server in two.servers) == 2)
            assert not waiting.done()
            for server in two.servers:
                server.open.set()
            assert len([future.result(WAIT) for future in waiting.result(WAIT)]) == len(two.weights.prompts)


def test_stopped_the_endpoint_still_gives_what_vllm_is_computing(one: Rig):
    with one.models() as models:
        thread: ModelThread[Completion] = ModelThread(models.generate)
        thread.start()
        one.servers[0].open.clear()
        running = thread.submit(BASE, one.weights.prompts[0], max_new_tokens=NEW_TOKENS)
        assert one.servers[0].entered.wait(WAIT)
        thread.drain()
        assert thread.join(WAIT)
        with pytest.raises(Draining):
            thread.submit(BASE, one.weights.prompts[1], max_new_tokens=NEW_TOKENS)
        assert not running.done()
        one.servers[0].open.set()
        assert running.result(WAIT).text == one.weights.answers[BASE][0].text


def test_while_a_version_is_loaded_requests_for_others_are_answered(one: Rig):
    with one.models() as models:
        thread: ModelThread[Completion] = ModelThread(models.generate)
        thread.start()
        with one.servers[0].engine.lock:
            loading = thread.call(lambda: models.load("bank-v1", one.weights.adapters[0]))
            wait_until(lambda: one.servers[0].requests("/v1/load_lora_adapter"))
            answer = thread.submit(BASE, one.weights.prompts[0], max_new_tokens=NEW_TOKENS)
            wait_until(lambda: one.servers[0].requests(COMPLETIONS))
            assert not loading.done()
        assert answer.result(WAIT).text == one.weights.answers[BASE][0].text
        assert loading.result(WAIT) is None
        thread.drain()
        assert thread.join(WAIT)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no key", f"{VARIABLE} is empty"),
        ("wrong key", "HTTP 401.*api_key_variable"),
        ("other base", "serves no base model 'base', but gemma"),
    ],
)
def test_what_starting_again_would_not_mend_is_told_at_the_start(one: Rig, monkeypatch: pytest.MonkeyPatch, fault: str, said: str):
    if fault == "no key":
        monkeypatch.delenv(VARIABLE)
    if fault == "wrong key":
        one.servers[0].key = "another"
    if fault == "other base":
        one.servers[0].base = "gemma"
    with pytest.raises(UpstreamNotSetUp, match=said), one.models():
        pass


def test_without_any_server_the_start_fails_so_that_it_is_tried_again(one: Rig):
    with pytest.raises(ReplicaDown, match="nobody answers"), one.models(urls=("http://127.0.0.1:9",)):
        pass


def test_prompt_and_answer_may_be_as_long_as_model_and_server_allow(one: Rig):
    with one.models() as models:
        assert models.context_tokens == 512
    one.servers[0].max_model_len = None
    with one.models() as models:
        assert models.context_tokens == 1024
