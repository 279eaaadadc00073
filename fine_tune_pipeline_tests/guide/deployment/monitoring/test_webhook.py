"""The webhook against a real server: told once, and never fatal."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fine_tune_pipeline.guide.deployment.monitoring.webhook import notify

VARIABLE = "DRIFT_WEBHOOK"


class Listener(BaseHTTPRequestHandler):
    """Keeps what it is sent; a path such as /500 is what it answers."""

    heard: list[tuple[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).heard.append((self.headers["Content-Type"], json.loads(body)))
        self.send_response(int(self.path.removeprefix("/").split("?")[0]))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def server() -> Iterator[str]:
    Listener.heard = []
    found = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{found.server_address[1]}"
    found.shutdown()
    thread.join()
    found.server_close()


def test_the_message_arrives_as_json(server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, f"{server}/204")
    assert notify(VARIABLE, {"verdict": "drift", "p": 0.001}) == "sent: 204"
    assert Listener.heard == [("application/json", {"verdict": "drift", "p": 0.001})]


def test_a_refusal_is_told_without_the_address(server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, f"{server}/500?token=secret")
    said = notify(VARIABLE, {})
    assert said == f"refused: the address in {VARIABLE} answered 500"


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/secret", "no address", "ftp://secret", "http://[secret"])
def test_an_address_that_does_not_answer_is_told_without_it(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, address)
    said = notify(VARIABLE, {}) or ""
    assert said.startswith(f"not sent: the address in {VARIABLE} does not answer (")
    assert "secret" not in said


def test_nobody_is_told_where_nobody_is_named_and_a_missing_variable_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert notify(None, {}) is None
    assert notify(VARIABLE, {}) == f"not sent: {VARIABLE} is not set where this runs"
