"""A provider on this machine, written from the public API reference: files, fine-tuning jobs, models and chat completions.

A job goes on by one state every time it is looked at, so nothing depends on time. `faults` answer in place of the routes.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fine_tune_pipeline.programs.hosted.requests import HostedModel
from fine_tune_pipeline_tests.web import Quiet, web_server

KEY = "sk-key-of-the-stand-in"
VARIABLE = "STAND_IN_KEY"
MODEL = "gpt-test-mini"
QUIET_RETRY = {"retry-after-ms": "1"}

Content = dict[str, Any]
Answer = Callable[[Content], str]


@dataclass
class Fault:
    """Answers the next `times` requests whose `METHOD path` matches; `status` 0 drops the connection, after doing the work if `done`."""

    request: str
    status: int
    error: Content = field(default_factory=dict)
    times: int = 1
    done: bool = False
    headers: dict[str, str] = field(default_factory=lambda: dict(QUIET_RETRY))


@dataclass
class Provider:
    """What the provider knows, and what it was asked, in the order it came."""

    url: str = ""
    key: str = KEY
    models: list[Content] = field(default_factory=lambda: [{"id": MODEL, "shutdown_date": None}])
    files: list[Content] = field(default_factory=list)
    jobs: list[Content] = field(default_factory=list)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    states: Sequence[str] = ("validating_files", "queued", "running", "succeeded")
    failure: Content = field(default_factory=dict)
    losses: Sequence[float] = (2.0, 1.5, 1.0, 0.6)
    answer: Answer = lambda request: "an answer"
    logprobs: bool = True
    refuses: str = ""
    keeps_metadata: bool = True
    held: threading.Event = field(default_factory=threading.Event)
    seen: threading.Event = field(default_factory=threading.Event)

    def hosted(self, model: str = MODEL) -> HostedModel:
        return HostedModel(model=model, base_url=self.url, api_key_variable=VARIABLE, context_tokens=1000, requests_at_once=4)

    def requests(self, pattern: str) -> list[Any]:
        """Bodies of the requests whose `METHOD path` matches."""
        return [body for method, path, body in self.asked if re.search(pattern, f"{method} {path}")]


class Routes:
    """Every route by its pattern."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Content]:
        for pattern, act in {
            r"^GET /v1/models$": lambda _: self.models(),
            r"^POST /v1/files$": lambda _: self.upload(body),
            r"^GET /v1/files$": lambda _: _page(self.provider.files, query),
            r"^POST /v1/fine_tuning/jobs$": lambda _: self.create(body),
            r"^GET /v1/fine_tuning/jobs$": lambda _: _page(self.provider.jobs[::-1], query),
            r"^GET /v1/fine_tuning/jobs/([^/]+)$": lambda found: self.job(found[1], advance=True),
            r"^POST /v1/fine_tuning/jobs/([^/]+)/cancel$": lambda found: self.cancel(found[1]),
            r"^GET /v1/fine_tuning/jobs/([^/]+)/events$": lambda found: self.listed(found[1], "events", query),
            r"^GET /v1/fine_tuning/jobs/([^/]+)/checkpoints$": lambda found: self.listed(found[1], "checkpoints", query),
            r"^POST /v1/chat/completions$": lambda _: self.chat(body),
        }.items():
            found = re.match(pattern, f"{method} {path}")
            if found:
                return act(found)
        return _error(404, "invalid_request_error", "unknown_url", f"Unknown request URL: {method} {path}.")

    def models(self) -> tuple[int, Content]:
        shown = [{"object": "model", "created": 1, "owned_by": "system", **model} for model in self.provider.models]
        return 200, {"object": "list", "data": shown}

    def upload(self, body: Content) -> tuple[int, Content]:
        with self.lock:
            file = {
                "id": f"file-{len(self.provider.files) + 1}",
                "object": "file",
                "bytes": len(body["content"]),
                "created_at": 1,
                "filename": body["filename"],
                "purpose": body["purpose"],
                "status": "processed",
            }
            self.provider.files.append(file)
        return 200, file

    def create(self, body: Content) -> tuple[int, Content]:
        if body["model"] not in {model["id"] for model in self.provider.models}:
            return _error(400, "invalid_request_error", "model_not_available", f"Model {body['model']} is not available for fine-tuning.")
        with self.lock:
            job = self._new(body)
            self.provider.jobs.append(job)
        return 200, _public(job)

    def job(self, id: str, *, advance: bool) -> tuple[int, Content]:
        found = next((job for job in self.provider.jobs if job["id"] == id), None)
        if found is None:
            return _error(404, "invalid_request_error", "fine_tune_not_found", f"Could not find fine tune: {id}")
        if advance and found["_states"] and not (found["status"] == "running" and self.provider.held.is_set()):
            with self.lock:
                self._go_on(found)
        self.provider.seen.set()
        return 200, _public(found)

    def cancel(self, id: str) -> tuple[int, Content]:
        found = next(job for job in self.provider.jobs if job["id"] == id)
        if found["status"] in ("succeeded", "failed", "cancelled"):
            return _error(400, "invalid_request_error", "job_not_cancellable", f"Job has already {found['status']}.")
        found.update(status="cancelled", finished_at=99, _states=[])
        return 200, _public(found)

    def listed(self, id: str, what: str, query: dict[str, list[str]]) -> tuple[int, Content]:
        status, _ = self.job(id, advance=False)
        found = next((job for job in self.provider.jobs if job["id"] == id), {})
        return _page(found[f"_{what}"][::-1], query) if status == 200 else (status, _)

    def chat(self, body: Content) -> tuple[int, Content]:
        tuned = {job["fine_tuned_model"] for job in self.provider.jobs}
        if body["model"] not in {*tuned, *(model["id"] for model in self.provider.models)}:
            return _error(404, "invalid_request_error", "model_not_found", f"The model `{body['model']}` does not exist.")
        if self.provider.refuses and self.provider.refuses in body:
            return _error(400, "invalid_request_error", "unsupported", f"{self.provider.refuses} is not supported by this model.")
        text = self.provider.answer(body)
        words = text.split() or [""]
        logprobs = {"content": [{"token": word, "logprob": -0.25, "bytes": None, "top_logprobs": []} for word in words]}
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "finish_reason": "length" if len(words) > body.get("max_tokens", 1000) else "stop",
            "logprobs": logprobs if self.provider.logprobs and body.get("logprobs") else None,
        }
        usage = {"prompt_tokens": 10, "completion_tokens": len(words), "total_tokens": 10 + len(words)}
        return 200, {"id": "chat-1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice], "usage": usage}

    def _new(self, body: Content) -> Content:
        number = len(self.provider.jobs) + 1
        return {
            "id": f"ftjob-{number}",
            "object": "fine_tuning.job",
            "created_at": number,
            "finished_at": None,
            "fine_tuned_model": None,
            "error": None,
            "hyperparameters": body["method"]["supervised"]["hyperparameters"],
            "method": body["method"],
            "model": body["model"],
            "organization_id": "org-1",
            "result_files": [],
            "seed": body["seed"],
            "status": self.provider.states[0],
            "trained_tokens": None,
            "training_file": body["training_file"],
            "validation_file": body["validation_file"],
            "metadata": body["metadata"] if self.provider.keeps_metadata else None,
            "user_provided_suffix": body["suffix"],
            "_states": list(self.provider.states[1:]),
            "_events": [_event(f"Created fine-tuning job: ftjob-{number}", number=0)],
            "_checkpoints": [],
        }

    def _go_on(self, job: Content) -> None:
        job["status"] = job["_states"].pop(0)
        job["_events"].append(_event(f"Job is {job['status']}", number=len(job["_events"])))
        if job["status"] == "failed":
            job.update(error=self.provider.failure, finished_at=50)
        if job["status"] == "running" and not any(event.get("data") for event in job["_events"]):
            for step, loss in enumerate(self.provider.losses, start=1):
                measured = {"step": step, "total_steps": len(self.provider.losses), "train_loss": loss, "valid_loss": loss + 0.1}
                job["_events"].append(_event(f"Step {step}: training loss={loss}", number=len(job["_events"]), data=measured))
        if job["status"] == "succeeded":
            name = f"ft:{job['model']}:org:{job['user_provided_suffix']}:{job['id']}"
            job.update(fine_tuned_model=name, finished_at=60, trained_tokens=12345)
            metrics = {"train_loss": min(self.provider.losses, default=None), "full_valid_loss": 0.7}
            job["_checkpoints"].append(
                {
                    "id": "ftckpt-1",
                    "object": "fine_tuning.job.checkpoint",
                    "created_at": 55,
                    "fine_tuned_model_checkpoint": f"{name}:ckpt-step-4",
                    "fine_tuning_job_id": job["id"],
                    "metrics": metrics,
                    "step_number": 4,
                }
            )


@contextmanager
def provider_stand_in(**settings: Any) -> Iterator[Provider]:
    """The provider, listening; `url` ends in /v1."""
    provider = Provider(**settings)
    routes = Routes(provider)

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply("GET")

        def do_POST(self) -> None:
            self.reply("POST")

        def reply(self, method: str) -> None:
            place = urlsplit(self.path)
            body = _body(self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"] or 0)))
            provider.asked.append((method, place.path, body))
            fault = _fault(provider, f"{method} {place.path}", routes.lock)
            if fault is not None and fault.done:
                routes.answer(method, place.path, parse_qs(place.query), body)
            if fault is not None and not fault.status:
                self.close_connection = True
                return
            if self.headers["Authorization"] != f"Bearer {provider.key}":
                given = (self.headers["Authorization"] or "").removeprefix("Bearer ")
                status, content = _error(401, "invalid_request_error", "invalid_api_key", f"Incorrect API key provided: {given}.")
            elif fault is not None:
                status, content = (
                    fault.status,
                    {"error": {"message": "told to fail", "type": "test", "param": None, "code": None, **fault.error}},
                )
            else:
                status, content = routes.answer(method, place.path, parse_qs(place.query), body)
            self.send(status, content, fault.headers if fault else {})

        def send(self, status: int, content: Content, headers: dict[str, str]) -> None:
            text = json.dumps(content).encode("utf-8")
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

    with web_server(Handler) as address:
        provider.url = f"{address}/v1"
        yield provider


def _fault(provider: Provider, request: str, lock: threading.Lock) -> Fault | None:
    with lock:
        found = next((fault for fault in provider.faults if fault.times and re.search(fault.request, request)), None)
        if found is not None:
            found.times -= 1
        return found


def _body(kind: str | None, content: bytes) -> Any:
    if kind is None or not content:
        return None
    if kind.startswith("application/json"):
        return json.loads(content)
    message = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + content)
    parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}  # type: ignore[union-attr]
    file = parts["file"]
    return {
        "purpose": parts["purpose"].get_payload(),  # type: ignore[union-attr]
        "filename": file.get_filename(),  # type: ignore[union-attr]
        "content": file.get_payload(decode=True),  # type: ignore[union-attr]
    }


def _event(message: str, *, number: int, data: Content | None = None) -> Content:
    kind = "message" if data is None else "metrics"
    shown = {"created_at": number, "level": "info", "message": message, "type": kind, "data": data}
    return {"id": f"ftevent-{number}", "object": "fine_tuning.job.event", **shown}


def _page(items: Sequence[Content], query: dict[str, list[str]]) -> tuple[int, Content]:
    """As the API pages: `after` an id, at most `limit`."""
    ids = [item["id"] for item in items]
    first = ids.index(query["after"][0]) + 1 if "after" in query else 0
    limit = int(query["limit"][0]) if "limit" in query else 20
    shown = [_public(item) for item in items[first : first + limit]]
    return 200, {"object": "list", "data": shown, "has_more": first + limit < len(items)}


def _public(item: Content) -> Content:
    return {name: value for name, value in item.items() if not name.startswith("_")}


def _error(status: int, kind: str, code: str, message: str) -> tuple[int, Content]:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": code}}
