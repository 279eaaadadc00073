"""The endpoint over HTTP, in the shapes of OpenAI's API: chat completions, models, health, feedback, and the admin route.

A model that was trained on single questions gets `messages` with exactly one user message, and a system message in the chat format
only: anything else would be a prompt that nobody has evaluated. One that was trained on conversations gets all turns, tools too.
"""

import time
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.examples import Message as Turn
from fine_tune_pipeline.artifacts.traffic import Feedback
from fine_tune_pipeline.programs.serving.contract import HASH_HEADER, Health, SyncRequest, Table, version_of
from fine_tune_pipeline.programs.serving.http_errors import Refused, add_error_shapes
from fine_tune_pipeline.programs.serving.http_gate import Gate, Keys
from fine_tune_pipeline.programs.serving.service import Answer, Question, Service

MAX_SOURCE_CHARACTERS = 200


class Body(BaseModel):
    """A request body: an unknown field would be a wish that is silently ignored, so it is refused."""

    model_config = ConfigDict(extra="forbid")


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


class ChatRequest(Body):
    """`POST /v1/chat/completions`. Answers are greedy, as in evaluation: fields that ask for something else are refused."""

    model: str | None = Field(default=None, description="The use case's name or nothing: the champion. A version or the base by its name.")
    messages: list[Message] = Field(min_length=1)
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    stream: bool = False
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = Field(default=None, description="Taken and without effect: the same question always gets the same answer.")
    user: str | None = Field(default=None, description="Kept as a keyed hash only.")
    tools: list[dict[str, Any]] = Field(default=[], description="What the model may call; only for one that was trained on conversations.")


class FeedbackRequest(Body):
    """`POST /v1/feedback`: what one source says of one answer."""

    request_id: str
    thumb: Literal["up", "down"] | None = None
    corrected: str | None = None
    source: str = Field(default="user", min_length=1, max_length=MAX_SOURCE_CHARACTERS)


def make_app(service: Service, keys: Keys) -> FastAPI:
    """The routes of one endpoint."""
    app = FastAPI(title=f"{service.use_case} endpoint", docs_url=None, redoc_url=None, openapi_url=None)
    add_error_shapes(app)
    app.add_middleware(Gate, keys=keys, body_bytes=service.limits.body_bytes)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> JSONResponse:
        question = _question(body, service=service, probe=request.state.admin)
        answer = await service.answer(question, gone=request.is_disconnected)
        return JSONResponse(_completion(answer), headers={HASH_HEADER: answer.target.sha256, "x-request-id": answer.id})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, service=service) for name in service.versions.names()]}

    @app.get("/health")
    async def health() -> JSONResponse:
        found: Health = service.health()
        return JSONResponse(found.model_dump(mode="json"), status_code=200 if found.status in ("ready", "degraded") else 503)

    # Not `async`: waiting for the log and loading a version may block, so they get a thread of their own.
    @app.post("/v1/feedback")
    def feedback(body: FeedbackRequest) -> dict[str, Any]:
        _keep_feedback(body, service=service)
        return {"object": "feedback", "request_id": body.request_id, "kept": True}

    @app.post("/admin/sync")
    def sync(body: SyncRequest) -> Table:
        return service.versions.sync(body)

    return app


def _question(body: ChatRequest, *, service: Service, probe: bool) -> Question:
    """What is asked.

    Raises:
        Refused: something is wished that this endpoint does not do.
    """
    if body.stream:
        raise Refused("stream: true is not supported; leave it out, the answer comes whole", param="stream", code="unsupported_value")
    if body.n != 1:
        raise Refused(f"n: got {body.n}, want 1; answers are greedy, so further ones would be the same", param="n")
    for name, value, allowed in (("temperature", body.temperature, 0), ("top_p", body.top_p, 1)):
        if value not in (None, allowed):
            raise Refused(f"{name}: got {value:g}, want {allowed} or nothing; answers are greedy, as in evaluation", param=name)
    most = body.max_completion_tokens or body.max_tokens
    asked, system = asked_of(body, conversations=service.conversations, style=service.format.style)
    return Question(asked=asked, system=system, model=body.model, max_tokens=most, user=body.user, probe=probe)


def asked_of(body: ChatRequest, *, conversations: bool, style: str) -> tuple[Asked, str]:
    """What stands before the answer, and the system message (or "").

    Raises:
        Refused: the model was not trained on messages like these.
    """
    return _conversation(body) if conversations else _single(body, style=style)


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


def _message(answer: Answer) -> dict[str, Any]:
    """The answer and, of a version that looks passages up, `sources`: what it was given, the nearest first."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.sources is None:
        return message
    found = [(each.entry, each.score) for each in reversed(answer.sources)]
    return {**message, "sources": [{"id": entry.id, "title": entry.title, "score": round(score, 6)} for entry, score in found]}


def _completion(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.target.name,
        "choices": [
            {
                "index": 0,
                "message": _message(answer),
                "finish_reason": "stop" if answer.finished else "length",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.new_tokens,
            "total_tokens": answer.prompt_tokens + answer.new_tokens,
        },
    }


def _model(name: str, *, service: Service) -> dict[str, Any]:
    table = service.versions.table
    number = version_of(name, use_case=service.use_case)
    version = table.champion if name == service.use_case else None if number is None else table.version(number)
    sha256 = table.base_sha256 if version is None else version.adapter_sha256
    aliases = [alias for alias, target in table.aliases.items() if version is not None and target == version.version]
    root = name if version is None else version.name
    shown = {"id": name, "object": "model", "created": 0, "owned_by": service.use_case}
    return {**shown, "root": root, "sha256": sha256, "aliases": aliases}


def _keep_feedback(body: FeedbackRequest, *, service: Service) -> None:
    if body.thumb is None and body.corrected is None:
        raise Refused("want thumb, corrected, or both", param="thumb")
    if body.corrected is not None and (problem := service.shape.problem(body.corrected)) is not None:
        raise Refused(f"corrected: {problem}; want an answer as the model should have given it", status=422, param="corrected")
    said = Feedback(request_id=body.request_id, thumb=body.thumb, corrected=body.corrected, source=body.source)
    service.writer.feedback(said, closed=service.shape.closed).result(timeout=service.limits.request_seconds)
