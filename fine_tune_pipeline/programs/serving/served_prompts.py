"""From the body of a request to the tokens that the model is fed: the endpoint's own way, which preflight holds against training."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from fine_tune_pipeline.artifacts.examples import Asked, Passage
from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.http_bodies import ChatRequest, Message, asked_of

Encode = Callable[[Asked, str], list[int]]
"""(what is asked, system message) -> the tokens of the prompt."""


def encoder(model: str | Path, *, format: PromptFormat) -> Encode:
    """How the endpoint of this model makes tokens of what is asked."""
    # A tokenizer of its own: the model thread uses another one at the same time, and they are not safe to share.
    tokenizer = load_tokenizer(model)

    def tokens(asked: Asked, system: str) -> list[int]:
        chosen = format.model_copy(update={"instruction": system}) if system else format
        return encode(asked, None, tokenizer=tokenizer, format=chosen).prompt_ids

    return tokens


def request_body(example: Mapping[str, Any]) -> str:
    """What a client sends over HTTP to ask what a row of a data set asks: `POST /v1/chat/completions`."""
    asked = Asked.of(example)
    before = [{name: value for name, value in turn.items() if name in Message.model_fields} for turn in asked.history]
    body: dict[str, Any] = {"messages": [*before, {"role": asked.role, "content": asked.prompt}]}
    return json.dumps(body | ({"tools": list(asked.tools)} if asked.tools else {}))


class Fed(Protocol):
    """The tokens of the body of a request, and what was looked up for it."""

    def __call__(self, body: str, *, context: Sequence[Passage] = ()) -> list[int]: ...


def served_prompts(model: str | Path, *, format: PromptFormat, conversations: bool) -> Fed:
    """The tokens that the endpoint would feed the model for the body of a request.

    Raises, when it is called:
        ValidationError, Refused, ReservedText: as the endpoint would refuse the request.
    """
    tokens = encoder(model, format=format)

    def fed(body: str, *, context: Sequence[Passage] = ()) -> list[int]:
        asked, system = asked_of(ChatRequest.model_validate_json(body), conversations=conversations, style=format.style)
        return tokens(replace(asked, context=context), system)

    return fed
