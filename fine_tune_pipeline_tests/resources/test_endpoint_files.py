"""The files by which an endpoint is found again: lost, damaged, of another version, or of somebody who is gone. No server is started."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.process_identity import own_identity
from fine_tune_pipeline.programs.requests import PromptFormat, ServeRequest
from fine_tune_pipeline.programs.serving.contract import PID_FILE, REQUEST_FILE, SERVER_FILE, SUPERVISOR_FILE, VERSIONS_FILE, ServerAddress
from fine_tune_pipeline.programs.serving.port_holder import NOBODY_SEEN, holder_of
from fine_tune_pipeline.programs.supervise import claimed
from fine_tune_pipeline.resources.endpoint import Endpoint, EndpointFailed
from fine_tune_pipeline.resources.endpoint_client import EndpointClient, Unreachable
from fine_tune_pipeline_tests.waiting import wait_until


def endpoint_at(folder: Path) -> Endpoint:
    """One that has run."""
    state = str(folder)
    request = ServeRequest(output=state, state=state, use_case="bank", model="/nowhere", format=PromptFormat(), max_new_tokens=4, port=0)
    request.write(folder / REQUEST_FILE)
    return Endpoint(use_case="bank", folder=folder, ready_seconds=1.0)


def test_what_never_ran_says_so_and_nothing_is_made(tmp_path: Path):
    endpoint = Endpoint(use_case="bank", folder=tmp_path / "bank")
    status = endpoint.status()
    assert (status.state, endpoint.stop()) == ("stopped", False)
    assert "no endpoint has run yet" in str(status.problem)
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_killed_says_how_it_ended_and_one_that_was_stopped_needs_no_reason(tmp_path: Path):
    endpoint = endpoint_at(tmp_path)
    assert endpoint.status().problem is None
    own_identity().model_copy(update={"started": "1"}).write(tmp_path / PID_FILE)
    status = endpoint.status()
    assert (status.state, status.supervisor_pid) == ("stopped", None)
    assert "ended without a word" in str(status.problem)
    assert "fine-tune-pipeline serve bank" in str(status.problem)


@pytest.mark.parametrize("content", [None, "", "{", '{"pid": 1}'])
def test_without_a_good_pid_file_a_running_supervisor_is_found_by_its_lock(tmp_path: Path, content: str | None):
    endpoint = endpoint_at(tmp_path)
    with claimed(tmp_path):
        (tmp_path / PID_FILE).unlink()
        if content is not None:
            (tmp_path / PID_FILE).write_text(content, encoding="utf-8")
        assert (endpoint.supervisor_pid(), endpoint.status().state) == (os.getpid(), "starting")
    assert endpoint.status().state == "stopped"


@pytest.mark.parametrize("name", [PID_FILE, SERVER_FILE, SUPERVISOR_FILE, VERSIONS_FILE])
@pytest.mark.parametrize("content", ["", "{", '{"of": "another version"}', "\udcff"])
def test_a_damaged_file_does_not_keep_anybody_from_asking_and_stopping(tmp_path: Path, name: str, content: str):
    endpoint = endpoint_at(tmp_path)
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    status = endpoint.status()
    assert (status.state, status.table, status.restarts, endpoint.processes()) == ("stopped", None, 0, [])
    assert not endpoint.stop()


def test_a_request_of_another_version_of_the_software_is_a_clear_error(tmp_path: Path):
    endpoint = endpoint_at(tmp_path)
    path = tmp_path / REQUEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "of_the_future": 1}), encoding="utf-8")
    with pytest.raises(EndpointFailed, match=r"request\.json: .*materialize the asset `endpoint` again"):
        endpoint.resume()


class Stranger(http.server.BaseHTTPRequestHandler):
    """Another program at the port that an endpoint had."""

    status = 200
    body = b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@contextmanager
def stranger(status: int, body: bytes) -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), type("Of", (Stranger,), {"status": status, "body": body}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize(
    "body", [b"", b"hello", b"[1]", b"3", b'{"status": "UP"}', b'{"error": "nobody"}', b'{"error": {"message": "no"}}']
)
def test_somebody_else_at_the_port_of_an_endpoint_is_not_taken_for_it(tmp_path: Path, status: int, body: bytes):
    endpoint = endpoint_at(tmp_path)
    with stranger(status, body) as port, claimed(tmp_path):
        ServerAddress(host="127.0.0.1", port=port, server=own_identity()).write(tmp_path / SERVER_FILE)
        with pytest.raises(Unreachable):
            EndpointClient(url=f"http://127.0.0.1:{port}", key="").health()
        assert (endpoint.status().state, endpoint.status().health) == ("starting", None)


def test_who_holds_a_port_is_named_without_what_its_command_line_says(tmp_path: Path):
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    of_an_endpoint = ["-m", "fine_tune_pipeline.programs.serve", "--request", str(tmp_path / "bank" / "request.json")]
    for arguments, shown in ((["--password", "hunter2"], "(process "), (of_an_endpoint, "the endpoint of bank (process ")):
        command = [sys.executable, "-c", code, *arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            said = holder_of(port)
            process.communicate("\n")
        assert shown in said
        assert str(process.pid) in said
        assert "hunter2" not in said
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert holder_of(bound.getsockname()[1]) == NOBODY_SEEN
    wait_until(lambda: process.poll() is not None)
