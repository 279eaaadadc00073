"""MLflow, and people who answer in its review queues."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import AssessmentSource
from mlflow.genai.review_queues import list_review_queue_items, list_review_queues, set_review_queue_item_status

from fine_tune_pipeline.people.review_queue import CONTENT
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline_tests.waiting import wait_until

Item = tuple[str, str]
"""Queue id and trace id."""


class People:
    """They answer as MLflow's web page does: assessments, then the status. The caller has set MLflow's address."""

    def __init__(self, tracking: ExperimentTracking, name: str) -> None:
        self.uri, self.name = tracking.uri, tracking.experiment(name)
        self.experiment = mlflow.get_experiment_by_name(self.name).experiment_id

    def items(self) -> dict[str, dict[str, Item]]:
        """Queue name -> content -> item."""
        found = {}
        for queue in list_review_queues(experiment_id=self.experiment):
            traces = [mlflow.get_trace(item.item_id) for item in list_review_queue_items(queue.queue_id, max_results=100)]
            found[queue.name] = {trace.info.tags[CONTENT]: (queue.queue_id, trace.info.trace_id) for trace in traces}
        return found

    def answer(
        self, item: Item, by: str, *, done: bool = True, corrected: str | None = None, note: str | None = None, **given: Any
    ) -> None:
        queue_id, trace_id = item
        source = AssessmentSource("HUMAN", by)
        for name, value in given.items():
            mlflow.log_feedback(trace_id=trace_id, name=name, value=value, source=source, rationale=note)
        if corrected is not None:
            mlflow.log_expectation(trace_id=trace_id, name="corrected", value=corrected, source=source)
        if done:
            set_review_queue_item_status(queue_id, item_id=trace_id, status="complete", completed_by=by)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """MLflow's own server on SQLite, on this machine only; gives the address."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port = made.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        # A group of its own: the server has a child that answers.
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: _healthy(address) or server.poll() is not None, deadline_seconds=240, what="MLflow's server")
        assert server.poll() is None, (folder / "server.log").read_text(encoding="utf-8")[-2000:]
        yield address
    finally:
        # At once: nobody reads its database again, and its own way out takes half a minute.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
