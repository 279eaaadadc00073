"""OpenAI's own client asks the endpoint over a socket: streams, seeds, log-probabilities, stop strings, schemas, while versions change."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from jsonschema import validate

from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.prompts import answer_text, encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline_tests.programs.serving.api_stand import ANSWER_TOKENS, Api, api
from fine_tune_pipeline_tests.programs.serving.serving_stand import ADMIN_KEY
from fine_tune_pipeline_tests.programs.test_predict import restless_model
from fine_tune_pipeline_tests.served import PROMPTS, tiny_adapter
from fine_tune_pipeline_tests.waiting import wait_until

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"intent": {"enum": ["card", "cash"]}},
    "required": ["intent"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("api")
    base = restless_model(found / "base", architecture="llama")
    for seed in (1, 2):
        tiny_adapter(found / f"adapter-{seed}", base, seed=seed)
    return found


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Api]:
    with api(folder / "base", folder / "state") as found:
        found.promote(1, adapters(folder))
        yield found


@pytest.fixture(scope="module")
def client(served: Api) -> Iterator[openai.OpenAI]:
    with served.client() as found:
        yield found


def adapters(folder: Path) -> list[Path]:
    return [folder / "adapter-1", folder / "adapter-2"]


def chat(client: openai.OpenAI, prompt: str, **wishes: Any) -> Any:
    return client.chat.completions.create(**{"model": "bank", "messages": [{"role": "user", "content": prompt}], **wishes})


def text(client: openai.OpenAI, prompt: str, **wishes: Any) -> str:
    return chat(client, prompt, **wishes).choices[0].message.content


def greedy(folder: Path, prompt: str, *, tokens: int) -> tuple[list[int], torch.Tensor]:
    """The likeliest tokens after a prompt by a plain loop without cache, and the log-probabilities [tokens, V] they were chosen from."""
    model, tokenizer = load_model(folder / "base", adapter=folder / "adapter-1"), load_tokenizer(folder / "base")
    ids, found = encode(prompt, None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids, []
    with torch.inference_mode():
        for _ in range(tokens):
            found.append(model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1))
            ids = [*ids, int(found[-1].argmax())]
    return ids[-tokens:], torch.stack(found)


@pytest.mark.parametrize("wishes", [{}, {"temperature": 1.0, "seed": 7, "top_p": 0.9}, {"logprobs": True, "top_logprobs": 2}])
def test_the_pieces_of_a_stream_are_the_whole_answer(client: openai.OpenAI, wishes: dict[str, Any]):
    for prompt in PROMPTS:
        whole = chat(client, prompt, **wishes)
        chunks = list(chat(client, prompt, stream=True, stream_options={"include_usage": True}, **wishes))
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
        assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
        assert choices[0].delta.role == "assistant"
        assert [choice.finish_reason for choice in choices] == [None] * (len(choices) - 1) + [whole.choices[0].finish_reason]
        assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].usage == whole.usage
        assert {chunk.model for chunk in chunks} == {"bank-v1"}
        assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}
        if wishes.get("logprobs"):
            scores = [score for choice in choices if choice.logprobs for score in choice.logprobs.content]
            assert scores == whole.choices[0].logprobs.content


def test_a_stream_comes_in_several_pieces_and_is_one_row_of_the_log(served: Api, client: openai.OpenAI):
    chunks = list(chat(client, PROMPTS[0], stream=True))
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert len(said) > 2
    wait_until(lambda: any(logged.request.id == chunks[0].id and logged.request.answer_scrubbed for logged in served.log.window(99)))
    [row] = [logged.request for logged in served.log.window(999) if logged.request.id == chunks[0].id]
    assert (row.status, row.answer_scrubbed) == (200, "".join(said))


def test_a_completion_asks_what_a_chat_message_asks(client: openai.OpenAI):
    found = client.completions.create(model="bank", prompt=PROMPTS[1], logprobs=2)
    assert found.object == "text_completion"
    assert found.choices[0].text == text(client, PROMPTS[1])
    scores = found.choices[0].logprobs
    assert scores is not None
    told = chat(client, PROMPTS[1], logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert scores.tokens == [score.token for score in told]
    assert scores.token_logprobs == pytest.approx([score.logprob for score in told], abs=1e-4)
    assert all(
        top[token] >= logprob - 1e-4 for top, token, logprob in zip(scores.top_logprobs, scores.tokens, scores.token_logprobs, strict=True)
    )
    pieces = [chunk.choices[0].text for chunk in client.completions.create(model="bank", prompt=PROMPTS[1], stream=True)]
    assert "".join(pieces) == found.choices[0].text


def test_log_probabilities_are_those_of_the_plain_logits(client: openai.OpenAI, folder: Path):
    tokenizer = load_tokenizer(folder / "base")
    scores = chat(client, PROMPTS[2], logprobs=True, top_logprobs=3).choices[0].logprobs.content
    ids, logprobs = greedy(folder, PROMPTS[2], tokens=len(scores))
    assert len(scores) > 3
    assert [score.token for score in scores] == [tokenizer.decode([id]) for id in ids]
    assert [score.logprob for score in scores] == pytest.approx(logprobs[range(len(ids)), ids].tolist(), abs=1e-4)
    for score, row in zip(scores, logprobs, strict=True):
        top = row.topk(3)
        assert [other.logprob for other in score.top_logprobs] == pytest.approx(top.values.tolist(), abs=1e-4)
        assert [other.token for other in score.top_logprobs] == [tokenizer.decode([id]) for id in top.indices.tolist()]


def test_greedy_answers_are_those_of_a_plain_loop(client: openai.OpenAI, folder: Path):
    tokenizer = load_tokenizer(folder / "base")
    for prompt in PROMPTS[:2]:
        answer = chat(client, prompt)
        ids, _ = greedy(folder, prompt, tokens=answer.usage.completion_tokens)
        generated = tokenizer.decode(ids, skip_special_tokens=True)
        assert answer.choices[0].message.content == answer_text(generated, format=PromptFormat())


def test_the_same_seed_gives_the_same_answer_in_any_company(client: openai.OpenAI):
    wish = {"temperature": 1.5, "seed": 11}
    alone = text(client, PROMPTS[0], **wish)
    with ThreadPoolExecutor(16) as pool:
        others = [pool.submit(text, client, PROMPTS[number % 5], temperature=1.0, seed=number) for number in range(24)]
        again = [pool.submit(text, client, PROMPTS[0], **wish) for _ in range(8)]
        plain = [pool.submit(text, client, PROMPTS[1]) for _ in range(8)]
        assert {found.result() for found in again} == {alone}
        assert {found.result() for found in plain} == {text(client, PROMPTS[1])}
        assert len({found.result() for found in others}) > 12
    assert text(client, PROMPTS[0], temperature=1.5, seed=12) != alone


def test_without_a_seed_answers_that_are_drawn_differ(client: openai.OpenAI):
    assert len({text(client, PROMPTS[0], temperature=2.0) for _ in range(4)}) > 1


@pytest.mark.parametrize("streams", [False, True])
def test_a_stop_string_ends_the_answer_also_across_tokens(client: openai.OpenAI, streams: bool):
    tokens = chat(client, PROMPTS[3], logprobs=True).choices[0].logprobs.content
    whole = text(client, PROMPTS[3])
    # The end of one token and the begin of the next, somewhere in the middle.
    stop = next(
        one.token[-1] + two.token[0]
        for one, two in pairwise(tokens[2:])
        if "\ufffd" not in one.token + two.token and (one.token[-1] + two.token[0]).strip() == one.token[-1] + two.token[0]
    )
    answer = chat(client, PROMPTS[3], stop=["never there", stop], stream=streams)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in answer) if streams else answer.choices[0].message.content
    assert said == whole.split(stop)[0].strip()
    assert said != whole
    if not streams:
        assert answer.choices[0].finish_reason == "stop"


def test_an_answer_that_is_cut_says_so(client: openai.OpenAI):
    answer = chat(client, PROMPTS[0], max_tokens=2)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 2)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 2


@pytest.mark.parametrize("wishes", [{}, {"temperature": 1.5, "seed": 3}, {"logprobs": True}])
def test_an_answer_fits_the_schema_of_its_client(client: openai.OpenAI, wishes: dict[str, Any]):
    wanted = {"type": "json_schema", "json_schema": {"name": "intent", "schema": SCHEMA, "strict": True}}
    answer = chat(client, PROMPTS[0], response_format=wanted, **wishes)
    assert answer.choices[0].finish_reason == "stop"
    validate(json.loads(answer.choices[0].message.content), SCHEMA)
    pieces = chat(client, PROMPTS[0], response_format=wanted, stream=True, **wishes)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == answer.choices[0].message.content


def test_a_schema_that_cannot_be_kept_is_refused_alone(client: openai.OpenAI):
    impossible = {"type": "object", "properties": {"a": {"type": "string", "format": "no-such"}, "b": {"$ref": "https://example.com/x"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": impossible}}
    with ThreadPoolExecutor(8) as pool:
        good = [pool.submit(text, client, PROMPTS[0]) for _ in range(6)]
        with pytest.raises(openai.BadRequestError, match="response_format: this schema cannot be kept"):
            chat(client, PROMPTS[0], response_format=wanted)
        assert len({answer.result() for answer in good}) == 1


def test_what_fails_before_the_first_piece_has_a_status_of_its_own(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="not served here"):
        chat(client, "hello", model="gpt-4", stream=True)
    with pytest.raises(openai.BadRequestError, match="at most 24"):
        chat(client, "hello", max_tokens=ANSWER_TOKENS + 1, stream=True)


def test_a_model_is_shown_by_its_name(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["bank", "bank-v1", "bank-v2", "bank-base"]
    assert client.models.retrieve("bank-v2").owned_by == "bank"
    with pytest.raises(openai.NotFoundError, match="'bank-v9' is not served here"):
        client.models.retrieve("bank-v9")


def test_while_versions_change_under_32_clients_every_answer_is_wholly_one_versions(served: Api, client: openai.OpenAI, folder: Path):
    wishes: tuple[dict[str, Any], ...] = ({}, {"temperature": 1.0, "seed": 5})
    alone = {
        (model, prompt, place): text(client, prompt, model=model, **wish)
        for model in ("bank-v1", "bank-v2")
        for prompt in PROMPTS
        for place, wish in enumerate(wishes)
    }

    def asked(number: int) -> tuple[str, str, int, str]:
        prompt, place = PROMPTS[number % 5], number % 2
        if number % 3:
            answer = chat(client, prompt, **wishes[place])
            return answer.model, prompt, place, answer.choices[0].message.content
        chunks = list(chat(client, prompt, stream=True, **wishes[place]))
        return chunks[0].model, prompt, place, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with ThreadPoolExecutor(33) as pool:
        exchanged = pool.submit(lambda: [served.promote(number % 2 + 1, adapters(folder)) for number in range(1, 9)])
        answers = list(pool.map(asked, range(160)))
        exchanged.result()
    assert len(answers) == 160
    for model, prompt, place, said in answers:
        assert said == alone[model, prompt, place]
    assert {model for model, *_ in answers} <= {"bank-v1", "bank-v2"}
    served.promote(1, adapters(folder))


def test_metrics_count_requests_by_version_arm_and_status(served: Api, client: openai.OpenAI):
    text(client, PROMPTS[0])
    list(chat(client, PROMPTS[0], stream=True))
    with served.client(ADMIN_KEY) as ours, pytest.raises(openai.BadRequestError):
        chat(ours, "hello", n=2)
    read = client.get("/../metrics", cast_to=str)
    for line in (
        'ftp_requests_total{arm="champion",status="200",version="1"}',
        'ftp_request_seconds_bucket{arm="champion",le="0.5",version="1"}',
        'ftp_time_to_first_piece_seconds_count{arm="champion",version="1"}',
        'ftp_tokens_total{arm="champion",kind="answer",version="1"}',
        'ftp_http_responses_total{route="/v1/chat/completions",status="400"}',
        'aliases="champion",model="bank-v1"',
        "ftp_batch_rows_bucket",
        "ftp_queue_waiting 0.0",
        "ftp_log_dropped_total 0.0",
        "ftp_up 1.0",
    ):
        assert line in read, read
