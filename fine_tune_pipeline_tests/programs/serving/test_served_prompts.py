"""What training has before an answer is what the endpoint feeds its model for the same request, over HTTP and down to the forward pass."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from fine_tune_pipeline.programs import serve
from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.requests import PromptFormat, ServeRequest
from fine_tune_pipeline.programs.serving import kept_prefixes
from fine_tune_pipeline.programs.serving.contract import base_name
from fine_tune_pipeline.programs.serving.http_gate import Keys
from fine_tune_pipeline.programs.serving.http_routes import make_app
from fine_tune_pipeline.programs.serving.served_models import ServedModels
from fine_tune_pipeline.programs.serving.served_prompts import request_body, served_prompts
from fine_tune_pipeline.programs.serving.service import Limits, Service
from fine_tune_pipeline.programs.training.batches import tokenised
from fine_tune_pipeline_tests.programs.serving.serving_stand import USER_KEY
from fine_tune_pipeline_tests.tiny import tiny_model

PLAIN, CHAT = PromptFormat(), PromptFormat(style="chat")

CALL = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"card": "4711"}'}}
TOOLS = [{"type": "function", "function": {"name": "find", "description": "looks a card up", "parameters": {"type": "object"}}}]

SINGLE = [
    {"id": "plain", "prompt": "my card was charged twice"},
    {"id": "ends", "prompt": "  spaces around, and a line\n\n"},
    {"id": "scripts", "prompt": "漢字 مرحبا 👩\u200d👧 <eos> \\n"},
]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "my card"},
    {"role": "assistant", "content": " what of it?"},
]
CALLED = [{"role": "user", "content": "my card"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
TALKS = [
    {"id": "turns", "prompt": "it is lost", "history": TURNS},
    {"id": "tool", "prompt": '{"state": "blocked"}', "role": "tool", "tools": TOOLS, "history": CALLED},
    {"id": "first", "prompt": "hello", "tools": TOOLS},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), chat=True)


@contextmanager
def endpoint(model: Path, folder: Path, **changes: Any) -> Iterator[Service]:
    """The service as the server builds it, weights and all, without a socket."""
    request = ServeRequest(output=str(folder), use_case="bank", model=str(model), max_new_tokens=2, port=0, state=str(folder), **changes)
    service, writer = serve._build(request, state=folder, limits=Limits())
    yield service
    service.drain()
    writer.close(20)


def ask(service: Service, body: str) -> httpx.Response:
    async def post() -> httpx.Response:
        app = make_app(service, Keys(user=USER_KEY, admin="admin-key-of-the-tests"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://endpoint") as client:
            whole = json.dumps({"model": base_name("bank"), **json.loads(body)})
            headers = {"Authorization": f"Bearer {USER_KEY}", "Content-Type": "application/json"}
            return await client.post("/v1/chat/completions", content=whole, headers=headers)

    return asyncio.run(post())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that went into the first forward pass of each answer."""
    prompts: list[list[int]] = []

    class Watched(ServedModels):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.model_of(options["base_name"]).register_forward_pre_hook(self._saw, with_kwargs=True)

        def _saw(self, module: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            if options["input_ids"].shape[1] > 1:
                prompts.append(options["input_ids"][0].tolist())

    monkeypatch.setattr(serve, "ServedModels", Watched)
    # What prompts begin with is read once; here all of each prompt is to be seen.
    monkeypatch.setattr(kept_prefixes, "LEAST_SHARED", 10**6)
    return prompts


@pytest.mark.parametrize("format", [PLAIN, CHAT], ids=["plain", "chat"])
@pytest.mark.parametrize("examples", [SINGLE, TALKS], ids=["single", "conversations"])
def test_the_forward_pass_of_the_endpoint_gets_the_prompt_of_training(
    examples: list[dict[str, Any]], format: PromptFormat, model: Path, tmp_path: Path, seen: list[list[int]]
):
    tokenizer = load_tokenizer(model)
    # In the chat format the spelling of a special token is refused, by training and endpoint alike.
    asked = [row for row in examples if format == PLAIN or "<eos>" not in row["prompt"]]
    talks = examples is TALKS
    shown_to_preflight = served_prompts(model, format=format, conversations=talks)
    with endpoint(model, tmp_path, format=format, conversations=talks) as service:
        for example in asked:
            row = tokenised({**example, "completion": "lost_card"}, tokenizer=tokenizer, format=format, loss_on="completion")
            answer = ask(service, request_body(example))
            assert answer.status_code == 200, answer.text
            trained = row.input_ids[: row.prompt_tokens]
            assert seen[-1] == trained, example["id"]
            assert shown_to_preflight(request_body(example)) == trained, example["id"]
            assert answer.json()["usage"]["prompt_tokens"] == len(trained)
    assert len(asked) > 1


@pytest.mark.parametrize("format", [PLAIN, CHAT], ids=["plain", "chat"])
@pytest.mark.parametrize("passage", [{"text": "fees are low"}, {"prompt": "my card", "completion": "lost_card"}], ids=["document", "row"])
def test_what_was_looked_up_stands_in_the_prompt_of_the_endpoint_as_in_training(format: PromptFormat, passage: dict[str, str], model: Path):
    example = {"id": "1", "prompt": "my card is lost", "completion": "lost_card", "context": [passage, passage]}
    row = tokenised(example, tokenizer=load_tokenizer(model), format=format, loss_on="completion")
    fed = served_prompts(model, format=format, conversations=False)
    assert fed(request_body(example), context=[passage, passage]) == row.input_ids[: row.prompt_tokens]
    assert len(fed(request_body(example))) < row.prompt_tokens


def test_a_call_without_words_is_no_text_to_the_model(model: Path):
    tokenizer = load_tokenizer(model)
    row = tokenised({**TALKS[1], "completion": "blocked"}, tokenizer=tokenizer, format=CHAT, loss_on="completion")
    assert "None" not in tokenizer.decode(row.input_ids)
