import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fine_tune_pipeline.programs.access import OutputNotWritable, tracking_problem, try_output
from fine_tune_pipeline.programs.requests import Tracking

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
