import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import RestException
from mlflow.store.tracking.rest_store import RestStore

from fine_tune_pipeline.programs.access import OutputNotWritable, TrackingSilent, tracking_problem, try_output
from fine_tune_pipeline.programs.requests import Tracking
from fine_tune_pipeline.programs.training.tracked_run import tracked_run
from fine_tune_pipeline.resources.tracking import ExperimentTracking

NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not do everything; root may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_writable_folder_is_left_as_it_was(tmp_path: Path):
    try_output(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_permission_is_named_with_what_to_do(tmp_path: Path):
    tmp_path.chmod(0o555)
    with unprivileged(), pytest.raises(OutputNotWritable, match=r"cannot be written there \(Permission denied\); make room, let user id"):
        try_output(tmp_path)
    tmp_path.chmod(0o755)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(OutputNotWritable, match="No such file or directory"):
        try_output(tmp_path / "missing")


def tracking(uri: str) -> Tracking:
    return Tracking(uri=uri, experiment="triage", run_name="preflight")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    MlflowClient(tracking_uri=uri).search_experiments()
    return uri


def test_tracking_is_tried_and_nothing_stays_there(database: str, tmp_path: Path):
    client = MlflowClient(tracking_uri=database)
    assert tracking_problem(tracking(database), artifacts=str(tmp_path / "mlruns")) is None
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]
    assert client.get_experiment("0").tags == {}
    assert list(tmp_path.iterdir()) == []


def test_the_files_of_an_experiment_are_tried_too(database: str, tmp_path: Path):
    client = MlflowClient(tracking_uri=database)
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    id = client.create_experiment("closed", artifact_location=str(tmp_path / "file" / "below"))
    problem = tracking_problem(Tracking(uri=database, experiment="closed", run_name="preflight"), artifacts=None)
    assert problem is not None
    assert "does not take what a training writes (NotADirectoryError" in problem
    assert client.search_runs([id]) == []
    assert client.get_experiment(id).tags == {}


def test_a_server_that_does_not_answer_is_a_problem_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = dict(os.environ)
    problem = tracking_problem(tracking(f"http://127.0.0.1:{port}"), artifacts=None)
    assert problem is not None
    assert problem.startswith(f"MLflow at http://127.0.0.1:{port} does not take what a training writes (MlflowException: ")
    assert "start it, let this machine reach it, correct MLFLOW_TRACKING_URI" in problem
    assert dict(os.environ) == before


def named(uri: str) -> None:
    ExperimentTracking(uri=uri).experiment("triage")


def begun(uri: str) -> None:
    with tracked_run(tracking(uri)) as run:
        assert run is not None
        run.numbers(1, {"loss": 1.0})


@pytest.mark.parametrize("begin", [named, begun], ids=["experiment", "run"])
def test_a_server_that_does_not_answer_ends_a_run_soon(begin: Callable[[str], object]):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(TrackingSilent, match=rf"MLflow at {uri} does not answer \(.*\); start its server, .*MLFLOW_TRACKING_URI"):
        begin(uri)
    assert time.monotonic() - started < 20


ANSWERS = {
    "get-by-name": {"experiment": {"experiment_id": "1", "name": "triage"}},
    "create": {"run": {"info": {"run_id": "a", "status": "RUNNING"}, "data": {}}},
    "log-batch": {},
    "get": {"run": {"info": {"run_id": "a", "status": "RUNNING"}, "data": {}}},
    "update": {"run_info": {"run_id": "a", "status": "FINISHED"}},
}


@pytest.fixture
def away_meanwhile() -> Iterator[HTTPServer]:
    """An MLflow server that is there when a run begins and then away for five requests; `seen` is what it did answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            name = self.path.partition("?")[0].rpartition("/")[2]
            if name == "log-batch" and self.server.away:
                self.server.away -= 1
                self.send_error(503)
                return
            self.server.seen.append(name)
            body = json.dumps(ANSWERS[name]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.away, server.seen = 5, []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_server_that_is_away_meanwhile_is_asked_again(away_meanwhile: HTTPServer, monkeypatch: pytest.MonkeyPatch):
    for name in ("FACTOR", "JITTER"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_BACKOFF_{name}", "0")
    begun(f"http://127.0.0.1:{away_meanwhile.server_port}")
    assert (away_meanwhile.away, away_meanwhile.seen) == (0, ["get-by-name", "create", "log-batch", "get", "update"])


def test_a_server_that_refuses_is_not_called_silent(monkeypatch: pytest.MonkeyPatch, away_meanwhile: HTTPServer):
    refusal = {"error_code": "PERMISSION_DENIED", "message": "not you"}
    monkeypatch.setattr(RestStore, "get_experiment_by_name", raised(RestException(refusal)))
    with pytest.raises(RestException, match="not you"):
        begun(f"http://127.0.0.1:{away_meanwhile.server_port}")


def raised(error: Exception) -> Callable[..., None]:
    def function(*_: object) -> None:
        raise error

    return function
