"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, whatever went wrong."""

import sqlite3
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jinja2.exceptions import TemplateError
from starlette.exceptions import HTTPException

from fine_tune_pipeline.artifacts.traffic import UnknownRequest
from fine_tune_pipeline.programs.hosted.upstream import UpstreamBusy, UpstreamFailed, UpstreamRefused, UpstreamSlow
from fine_tune_pipeline.programs.prompts import ReservedText
from fine_tune_pipeline.programs.serving.guard import NotChecked, PersonalData
from fine_tune_pipeline.programs.serving.model_thread import Draining, QueueFull, ThreadDied
from fine_tune_pipeline.programs.serving.ongoing import STATUS_OF
from fine_tune_pipeline.programs.serving.questions import TooManyTokens, TooManyWanted
from fine_tune_pipeline.programs.serving.running import ClientGone, TookTooLong
from fine_tune_pipeline.programs.serving.traffic_writer import NotScrubbed
from fine_tune_pipeline.programs.serving.versions import NoChampion, NotServed, SyncRefused
from fine_tune_pipeline.programs.serving.wishes import UnsupportedWish

RETRY_SECONDS = "5"


class Refused(Exception):
    """A request that this endpoint does not take; the message says what was seen and what is wanted."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


_STATUS: dict[type[Exception], int] = {
    **STATUS_OF,
    TooManyWanted: 400,
    NotServed: 404,
    UnknownRequest: 404,
    SyncRefused: 409,
    LookupError: 404,
    ReservedText: 400,
    # Of the model's chat template: turns in an order, or of a shape, that it does not take.
    TemplateError: 400,
    PersonalData: 400,
    NotChecked: 503,
    NotScrubbed: 503,
    sqlite3.Error: 503,
    OSError: 503,
}

_CODES: dict[type[Exception], str] = {
    TooManyTokens: "context_length_exceeded",
    UnsupportedWish: "unsupported_value",
    QueueFull: "queue_full",
    UpstreamBusy: "provider_busy",
    UpstreamFailed: "provider_failed",
    UpstreamRefused: "provider_refused",
    UpstreamSlow: "timeout",
    ClientGone: "client_gone",
    Draining: "stopping",
    ThreadDied: "model_thread_ended",
    NoChampion: "no_champion",
    TookTooLong: "timeout",
    NotServed: "model_not_found",
    UnknownRequest: "request_not_found",
    SyncRefused: "sync_refused",
    NotScrubbed: "not_scrubbed",
    PersonalData: "personal_data",
    NotChecked: "not_checked",
}


def error_response(status: int, message: str, *, param: str | None = None, code: str | None = None) -> JSONResponse:
    """One error. 401 says how to give a key, 429 and 503 say when to come again."""
    headers = {"Retry-After": RETRY_SECONDS} if status in (429, 503) else {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(_shape(status, message, param=param, code=code), status_code=status, headers=headers)


def shaped(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and the body of what went wrong, such as for the last event of a stream."""
    # The registered type may be a parent of the error's own.
    found = next((kind for kind in type(error).__mro__ if kind in _STATUS), None)
    if found is None:
        return 500, _shape(500, f"{type(error).__name__}; the server's log says more")
    return _STATUS[found], _shape(_STATUS[found], str(error), code=_CODES.get(found))


def _shape(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def add_error_shapes(app: FastAPI) -> None:
    """Make every error of the app come in this shape."""
    for kind in _STATUS:
        app.add_exception_handler(kind, _known)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)


async def _known(_: Request, error: Exception) -> JSONResponse:
    # The registered type may be a parent of the error's own.
    found = next(kind for kind in type(error).__mro__ if kind in _STATUS)
    return error_response(_STATUS[found], str(error), code=_CODES.get(found))


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return error_response(error.status, str(error), param=error.param, code=error.code)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Not JSON: 400; JSON that does not fit: 422, with all fields that are wrong. Values are not quoted back, they may be personal."""
    assert isinstance(error, RequestValidationError)
    problems: list[dict[str, Any]] = list(error.errors())
    if any(problem["type"] == "json_invalid" for problem in problems):
        return error_response(400, f"the body is not JSON: {problems[0]['ctx']['error']}", code="invalid_json")
    places = [".".join(str(part) for part in problem["loc"] if part != "body") for problem in problems]
    told = "; ".join(f"{place or 'body'}: {problem['msg']}" for place, problem in zip(places, problems, strict=True))
    return error_response(422, told, param=places[0] or None, code="invalid_type")


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    response = error_response(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _unknown(_: Request, error: Exception) -> JSONResponse:
    return error_response(500, f"{type(error).__name__}; the server's log says more")
