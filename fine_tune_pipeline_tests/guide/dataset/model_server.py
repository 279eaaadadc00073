"""A model's API on this machine: answers as a test says, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from fine_tune_pipeline_tests.web import Quiet, web_server

Answer = Callable[[dict[str, Any], int], tuple[int, Any, dict[str, str]]]


@dataclass
class Model:
    """`asked` are the requests, with their headers under `headers`, in the order they came."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)

    def users(self) -> list[str]:
        return [request["messages"][1]["content"] for request in self.asked]


def said(text: Any) -> tuple[int, Any, dict[str, str]]:
    """A good answer of an OpenAI-compatible server."""
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}]}, {}


@contextmanager
def model_server(answer: Answer) -> Iterator[Model]:
    """Answers POSTs to /v1/chat/completions by `answer(request, how many came before)`: status, JSON, headers."""
    model, lock = Model(), threading.Lock()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                before = len(model.asked)
                model.asked.append({**request, "headers": dict(self.headers), "path": self.path})
            status, content, headers = answer(request, before)
            body = json.dumps(content).encode("utf-8")
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with web_server(Handler) as address:
        model.url = f"{address}/v1"
        yield model
