"""What clients may wish of an answer goes on to vLLM: stop strings, drawing, log-probabilities, a schema."""

import math
from typing import Any

import pytest

from fine_tune_pipeline.programs.decoding_requests import JsonDecoding
from fine_tune_pipeline.programs.hosted.upstream import UpstreamFailed
from fine_tune_pipeline.programs.serving.wishes import ORDINARY, Sampling, Wanted, Wish
from fine_tune_pipeline.programs.token_scores import TokenScore
from fine_tune_pipeline.programs.vllm.completions import Completion
from fine_tune_pipeline.programs.vllm.telling import inside
from fine_tune_pipeline_tests.programs.vllm.fake_vllm import WAIT
from fine_tune_pipeline_tests.programs.vllm.world import BASE, Ear, Rig
from fine_tune_pipeline_tests.served import NEW_TOKENS

COMPLETIONS = "/v1/completions"


def wished(models: Any, rig: Rig, wish: Wish, *, most: int = NEW_TOKENS) -> Completion:
    (future,) = models.generate(BASE, [Wanted(rig.weights.prompts[0], most, wish, Ear())], NEW_TOKENS)
    return future.result(WAIT)


def test_without_a_wish_the_answer_is_the_evaluated_one_as_long_as_its_client_takes(one: Rig):
    with one.models() as models:
        assert models.ability == "free"
        assert wished(models, one, ORDINARY).text == one.weights.answers[BASE][0].text
        short = wished(models, one, ORDINARY, most=2)
    assert (short.tokens, short.finished, short.scores) == (2, False, None)
    assert [body["max_tokens"] for body in one.servers[0].requests(COMPLETIONS)] == [NEW_TOKENS, 2]


def test_log_probabilities_are_of_the_answers_tokens_each_with_the_likeliest(one: Rig):
    with one.models() as models:
        found = wished(models, one, Wish(top_logprobs=3))
    assert found.scores is not None
    assert "".join(score.token for score in found.scores).strip() == found.text
    assert all(len(score.top) == 3 for score in found.scores)
    for score in found.scores:
        assert score.top[0] == (score.token, score.logprob)
        assert [logprob for _, logprob in score.top] == sorted((logprob for _, logprob in score.top), reverse=True)
    wanted = one.weights.answers[BASE][0]
    if wanted.tokens == len(found.scores):
        assert math.isclose(sum(score.logprob for score in found.scores) / wanted.tokens, wanted.logprob, abs_tol=1e-4)


def test_tokens_behind_the_answer_have_no_scores():
    tokens = [" du", "pl", "icate", "\nIn", "put:", "<eos>"]
    scores = [TokenScore(token, -1.0, (("x", -2.0), (token, -1.0))) for token in tokens]
    found = inside(scores, text=" duplicate\nIn", answer="duplicate", top=1)
    assert [(score.token, score.top) for score in found] == [(token, ((token, -1.0),)) for token in tokens[:3]]


def test_a_stop_string_cuts_the_answer_as_the_endpoint_itself_would(one: Rig):
    whole = one.weights.answers[BASE][0].text
    with one.models() as models:
        cut = wished(models, one, Wish(stop=(whole[2:4],)))
    assert cut.text == whole[: whole.index(whole[2:4])].strip()
    assert one.servers[0].requests(COMPLETIONS)[0]["stop"] == ["\nInput:", whole[2:4]]


def test_the_same_seed_draws_the_same_answer(one: Rig):
    hot = [Wish(sampling=Sampling(temperature=2.0, top_p=0.9, seed=seed)) for seed in (7, 7, 8)]
    with one.models() as models:
        texts = [wished(models, one, wish).text for wish in hot]
    assert texts[0] == texts[1] != texts[2]
    body = one.servers[0].requests(COMPLETIONS)[0]
    assert (body["temperature"], body["top_p"], body["seed"]) == (2.0, 0.9, 7)


def test_a_schema_goes_on_as_vllms_structured_outputs_without_stop_strings(one: Rig):
    schema = {"type": "object"}
    with one.models() as models:
        wished(models, one, Wish(json=JsonDecoding(answer_schema=schema)))
    body = one.servers[0].requests(COMPLETIONS)[0]
    assert body["structured_outputs"] == {"json": schema}
    assert "stop" not in body


def test_for_a_client_that_has_left_nothing_is_computed(one: Rig):
    with one.models() as models:
        (future,) = models.generate(BASE, [Wanted(one.weights.prompts[0], 3, ORDINARY, Ear(stays=False))], NEW_TOKENS)
        with pytest.raises(UpstreamFailed, match="the client has left"):
            future.result(WAIT)
    assert one.servers[0].requests(COMPLETIONS) == []
