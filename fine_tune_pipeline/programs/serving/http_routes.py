"""The endpoint over HTTP, in the shapes of OpenAI's API: completions, models, health, readiness, metrics, feedback, and the admin route."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from fine_tune_pipeline.artifacts.traffic import Feedback
from fine_tune_pipeline.programs.serving.contract import HASH_HEADER, Health, SyncRequest, Table, version_of
from fine_tune_pipeline.programs.serving.http_answers import Chunks, Kind, whole
from fine_tune_pipeline.programs.serving.http_bodies import (
    ChatRequest,
    CompletionRequest,
    FeedbackRequest,
    chat_question,
    completion_question,
)
from fine_tune_pipeline.programs.serving.http_counting import Counting
from fine_tune_pipeline.programs.serving.http_errors import Refused, add_error_shapes, error_response
from fine_tune_pipeline.programs.serving.http_gate import Gate, Keys
from fine_tune_pipeline.programs.serving.http_stream import begun
from fine_tune_pipeline.programs.serving.ongoing import Ongoing
from fine_tune_pipeline.programs.serving.questions import Question
from fine_tune_pipeline.programs.serving.running import TookTooLong
from fine_tune_pipeline.programs.serving.service import Service
from fine_tune_pipeline.programs.serving.versions import NotServed


def make_app(service: Service, keys: Keys) -> FastAPI:
    """The routes of one endpoint."""
    app = FastAPI(title=f"{service.use_case} endpoint", docs_url=None, redoc_url=None, openapi_url=None)
    add_error_shapes(app)
    limits = service.limits
    app.add_middleware(Gate, keys=keys, body_bytes=limits.body_bytes, body_seconds=limits.body_seconds)
    app.add_middleware(Counting, metrics=service.metrics)
    _add_answers(app, service)
    _add_state(app, service)

    # Without a thread: people who wait for a slow log must not keep somebody from rolling a version back.
    @app.post("/v1/feedback")
    async def feedback(body: FeedbackRequest) -> dict[str, Any]:
        await _keep_feedback(body, service=service)
        return {"object": "feedback", "request_id": body.request_id, "kept": True}

    # Not `async`: loading a version blocks, so it gets a thread of its own.
    @app.post("/admin/sync")
    def sync(body: SyncRequest) -> Table:
        return service.versions.sync(body)

    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        question = chat_question(body, service=service, probe=request.state.admin)
        return await _answered(question, request, service=service, kind="chat", include_usage=body.include_usage)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        question = completion_question(body, service=service, probe=request.state.admin)
        return await _answered(question, request, service=service, kind="text", include_usage=body.include_usage)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, service=service) for name in service.versions.names()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in service.versions.names():
            raise NotServed(f"model {name!r} is not served here; want one of {', '.join(service.versions.names())}")
        return _model(name, service=service)


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        found: Health = service.health()
        return JSONResponse(found.model_dump(mode="json"), status_code=200 if found.status in ("ready", "degraded") else 503)

    @app.get("/ready")
    async def ready() -> JSONResponse:
        problem = await service.not_ready()
        return JSONResponse({"ready": True}) if problem is None else error_response(503, problem, code="not_ready")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


async def _answered(question: Question, request: Request, *, service: Service, kind: Kind, include_usage: bool) -> Response:
    """The answer at once or, where that is wished, as a stream whose first event is there."""
    ongoing: Ongoing = await service.begin(question, gone=request.is_disconnected)
    headers = {HASH_HEADER: ongoing.target.sha256, "x-request-id": ongoing.id}
    fingerprint = service.fingerprint(ongoing.target)
    if not question.streams:
        return JSONResponse(whole(await ongoing.whole(), kind=kind, fingerprint=fingerprint), headers=headers)
    chunks = Chunks(ongoing, kind=kind, fingerprint=fingerprint, include_usage=include_usage)
    return await begun(chunks.events(), slow_seconds=service.limits.slow_reader_seconds, headers=headers)


def _model(name: str, *, service: Service) -> dict[str, Any]:
    table = service.versions.table
    number = version_of(name, use_case=service.use_case)
    version = table.champion if name == service.use_case else None if number is None else table.version(number)
    sha256 = table.base_sha256 if version is None else version.adapter_sha256
    aliases = [alias for alias, target in table.aliases.items() if version is not None and target == version.version]
    root = name if version is None else version.name
    shown = {"id": name, "object": "model", "created": 0, "owned_by": service.use_case}
    return {**shown, "root": root, "sha256": sha256, "aliases": aliases}


async def _keep_feedback(body: FeedbackRequest, *, service: Service) -> None:
    if body.thumb is None and body.corrected is None:
        raise Refused("want thumb, corrected, or both", param="thumb")
    if body.corrected is not None and (problem := service.shape.problem(body.corrected)) is not None:
        raise Refused(f"corrected: {problem}; want an answer as the model should have given it", status=422, param="corrected")
    said = Feedback(request_id=body.request_id, thumb=body.thumb, corrected=body.corrected, source=body.source)
    kept = asyncio.wrap_future(service.writer.feedback(said, closed=service.shape.closed))
    seconds = service.limits.request_seconds
    # Waited for, not awaited: the writer goes on with what somebody no longer waits for.
    if not (await asyncio.wait([kept], timeout=seconds))[0]:
        raise TookTooLong(f"the traffic log did not take it within {seconds:g} seconds")
    kept.result()
