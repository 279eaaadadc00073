"""Bodies of requests, in the shapes of OpenAI's API, and the questions that they ask.

A model that was trained on single questions gets `messages` with exactly one user message, and a system message in the chat format
only: anything else would be a prompt that nobody has evaluated. One that was trained on conversations gets all turns, tools too.
"""

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.examples import Message as Turn
from fine_tune_pipeline.programs.decoding_requests import JsonDecoding
from fine_tune_pipeline.programs.serving.http_errors import Refused
from fine_tune_pipeline.programs.serving.nested import refuse_unreadable
from fine_tune_pipeline.programs.serving.questions import Question
from fine_tune_pipeline.programs.serving.service import Service
from fine_tune_pipeline.programs.serving.wishes import Ability, Sampling, Wish

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 200
MAX_SOURCE_CHARACTERS = 200

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
}
"""Fields that clients send with a value that asks for nothing; any other value would be a wish that is not fulfilled."""


class Body(BaseModel):
    """A request body: an unknown field would be a wish that is silently ignored, so it is refused."""

    model_config = ConfigDict(extra="forbid")


class Said(Body):
    """A whole body, all of whose texts can be read."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unreadable(cls, body: Any) -> Any:
        refuse_unreadable(body)
        return body


class TextPart(Body):
    """A piece of text; images and the like are refused."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One turn. Content is text, whole or in parts; an assistant that calls tools may say nothing beside."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        return self.content or "" if isinstance(self.content, str | None) else "".join(part.text for part in self.content)

    def turn(self) -> Turn:
        """As a conversation keeps it."""
        return {"content": self.text, **self.model_dump(exclude={"content"}, exclude_none=True)}


class StreamOptions(Body):
    """What a stream ends with."""

    include_usage: bool = False


class NamedSchema(Body):
    """A JSON Schema that the answer must fit; `strict` or not, it is kept while the answer is written."""

    name: str = ""
    description: str | None = None
    strict: bool | None = None
    answer_schema: dict[str, Any] = Field(alias="schema")


class AsText(Body):
    """What the model was trained to say."""

    type: Literal["text"]


class AsObject(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class AsSchema(Body):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


class Asking(Said):
    """What both routes know. Without `temperature` answers are greedy, as in evaluation."""

    model: str | None = Field(default=None, description="The use case's name or nothing: the champion. A version or the base by its name.")
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: int | None = Field(default=None, description="For answers that are drawn: the same seed gives the same answer.")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = Field(default=None, description="Kept as a keyed hash only.")

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with what it took."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Asking):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    response_format: Annotated[AsText | AsObject | AsSchema, Field(discriminator="type")] | None = None
    tools: list[dict[str, Any]] = Field(default=[], description="What the model may call; only for one that was trained on conversations.")


class CompletionRequest(Asking):
    """`POST /v1/completions`. The prompt is what a user asks: it is put into the words of training as a chat message is, so `model` sees
    nothing that it was not evaluated with."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None

    @property
    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class FeedbackRequest(Said):
    """`POST /v1/feedback`: what one source says of one answer."""

    request_id: str
    thumb: Literal["up", "down"] | None = None
    corrected: str | None = None
    source: str = Field(default="user", min_length=1, max_length=MAX_SOURCE_CHARACTERS)


def chat_question(body: ChatRequest, *, service: Service, probe: bool) -> Question:
    """What is asked.

    Raises:
        Refused: something is wished that this endpoint does not do.
    """
    if body.top_logprobs is not None and not body.logprobs:
        raise Refused("top_logprobs: want logprobs: true beside it", param="top_logprobs")
    wish = _wish(body, json=_json(body, ability=service.ability), top=(body.top_logprobs or 0) if body.logprobs else None)
    asked, system = asked_of(body, conversations=service.conversations, style=service.format.style)
    most = body.max_completion_tokens or body.max_tokens
    return _question(body, asked=asked, system=system, most=most, wish=wish, service=service, probe=probe)


def completion_question(body: CompletionRequest, *, service: Service, probe: bool) -> Question:
    """What is asked: the prompt as one user message.

    Raises:
        Refused: something is wished that this endpoint does not do.
    """
    if not body.text.strip():
        raise Refused("prompt: it is empty; want some text", param="prompt")
    wish = _wish(body, json=None, top=body.logprobs)
    asked = Asked(body.text)
    return _question(body, asked=asked, system="", most=body.max_tokens, wish=wish, service=service, probe=probe)


def asked_of(body: ChatRequest, *, conversations: bool, style: str) -> tuple[Asked, str]:
    """What stands before the answer, and the system message (or "").

    Raises:
        Refused: the model was not trained on messages like these.
    """
    return _conversation(body) if conversations else _single(body, style=style)


def _question(
    body: ChatRequest | CompletionRequest, *, asked: Asked, system: str, most: int | None, wish: Wish, service: Service, probe: bool
) -> Question:
    for name, neutral in NEUTRAL.items():
        value = getattr(body, name, None)
        if value is not None and value not in neutral:
            raise Refused(f"{name}: got {value}, want {neutral[0]!r} or nothing; this endpoint does not do more", param=name)
    if body.stream_options is not None and not body.stream:
        raise Refused("stream_options: want stream: true beside it", param="stream_options")
    _refuse_unable(wish, ability=service.ability)
    name = "chatcmpl" if isinstance(body, ChatRequest) else "cmpl"
    return Question(
        asked=asked,
        system=system,
        model=body.model,
        max_tokens=most,
        user=body.user,
        probe=probe,
        wish=wish,
        streams=bool(body.stream),
        name=name,
    )


def _wish(body: Asking, *, json: JsonDecoding | None, top: int | None) -> Wish:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if stop and json is not None:
        raise Refused("stop: an answer inside a schema ends by the schema; leave it out", param="stop")
    sampling = None
    if body.temperature:
        seed = secrets.randbits(32) if body.seed is None else body.seed
        sampling = Sampling(temperature=body.temperature, top_p=body.top_p or 1.0, seed=seed)
    elif body.top_p not in (None, 1):
        raise Refused(f"top_p: got {body.top_p:g} without a temperature, so the answer is greedy; want 1, or a temperature", param="top_p")
    return Wish(stop=stop, sampling=sampling, json=json, top_logprobs=top)


def _json(body: ChatRequest, *, ability: Ability) -> JsonDecoding | None:
    wanted = body.response_format
    if isinstance(wanted, AsSchema):
        return JsonDecoding(answer_schema=wanted.json_schema.answer_schema)
    # Where answers are kept inside the task's own schema, they are JSON already.
    if isinstance(wanted, AsObject) and ability != "json":
        return JsonDecoding(answer_schema={"type": "object"})
    return None


_WHY_NOT = {
    "remote": "the model stays at its provider, where it is asked as it was evaluated",
    "labels": "the answer is the likeliest of a closed list (evaluation.decoding: labels)",
    "json": "answers are kept inside the task's schema, which ends them (evaluation.decoding: json_schema)",
}


def _refuse_unable(wish: Wish, *, ability: Ability) -> None:
    if ability == "free":
        return
    wished = {
        "stop": bool(wish.stop),
        "temperature": wish.sampling is not None and ability != "json",
        "response_format": wish.json is not None and ability != "json",
        "logprobs": wish.top_logprobs is not None and ability == "remote",
    }
    if param := next((name for name, is_wished in wished.items() if is_wished), None):
        raise Refused(f"{param}: cannot be had here, since {_WHY_NOT[ability]}; leave it out", param=param, code="unsupported_value")


def _conversation(body: ChatRequest) -> tuple[Asked, str]:
    """All turns; the last is what is asked. System messages stay where they are."""
    *before, last = body.messages
    if last.role not in ("user", "tool"):
        raise Refused(f"messages: the last is of {last.role}, want one of the user or the result of a tool", param="messages")
    if not last.text.strip():
        raise Refused("messages: the last message is empty; want some text", param="messages")
    return Asked(last.text, history=[message.turn() for message in before], role=last.role, tools=body.tools), ""


def _single(body: ChatRequest, *, style: str) -> tuple[Asked, str]:
    """The prompt and the system message (or "")."""
    messages = body.messages
    if body.tools:
        raise Refused("tools: the model was trained on single questions, without tools; leave them out", param="tools")
    system = [message.text for message in messages if message.role in ("system", "developer")]
    turns = [message for message in messages if message.role not in ("system", "developer")]
    if len(turns) != 1 or turns[0].role != "user":
        seen = ", ".join(message.role for message in messages)
        raise Refused(f"messages: got {seen}; want one user message: the model was trained on single questions", param="messages")
    if system and style != "chat":
        raise Refused(
            "messages: the model was trained without an instruction (format plain), so a system message would make it worse; leave it out",
            param="messages",
            code="unsupported_value",
        )
    if len(system) > 1:
        raise Refused(f"messages: got {len(system)} system messages, want at most one", param="messages")
    if not turns[0].text.strip():
        raise Refused("messages: the user message is empty; want some text", param="messages")
    return Asked(turns[0].text), system[0] if system else ""
