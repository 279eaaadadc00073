"""The compose file runs: up, a materialisation through the web server, a restart in between, down; nothing is lost, nothing is left."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fine_tune_pipeline_tests.docker_images import DOCKER, REPOSITORY, WHOLE, bare_image, docker, postgres_image, site_packages
from fine_tune_pipeline_tests.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

PROJECT = "fine_tune_pipeline_test"

OURS = ("mlflow", "code", "webserver", "daemon")

ASSETS = [["support_triage", "objective"], ["support_triage", "raw_examples"]]


JOB = {
    "repositoryLocationName": "fine_tune_pipeline.definitions",
    "repositoryName": "__repository__",
    "pipelineName": "support_triage_fine_tune",
    "assetSelection": [{"path": path} for path in ASSETS],
}

LAUNCH = """mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}"""

MADE = """query($path: [String!]!) {
  assetOrError(assetKey: {path: $path}) {
    ... on Asset { assetMaterializations { runId metadataEntries { label ... on BoolMetadataEntry { boolValue } } } }
  }
}"""


class Stack:
    """The services of docker/compose.yaml, under a name and on ports of their own."""

    def __init__(self, folder: Path) -> None:
        self.web_port, self.mlflow_port = free_port(), free_port()
        settings = {
            "POSTGRES_PASSWORD": "of-the-test", "FINE_TUNE_PIPELINE_API_KEY": "of-the-test", "POSTGRES_IMAGE": postgres_image(),
            "FINE_TUNE_PIPELINE_IMAGE": "fine_tune_pipeline:compose", "BASE_IMAGE": bare_image(), "WEB_PORT": self.web_port,
            "MLFLOW_PORT": self.mlflow_port, "ENDPOINT_PORT": free_port(),
        }  # fmt: skip
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
        more = {"services": {name: {"volumes": [f"{site_packages()}:{WHOLE}:ro"]} for name in OURS}}
        (folder / "more.yaml").write_text(yaml.safe_dump(more), encoding="utf-8")
        files = ["--file", str(REPOSITORY / "docker" / "compose.yaml"), "--file", str(folder / "more.yaml")]
        old = shutil.which("docker-compose")
        self._command = [*([old] if old else [DOCKER, "compose"]), "-p", PROJECT, "--env-file", str(folder / ".env"), *files]

    def compose(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"compose {' '.join(arguments)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def healthy(self) -> bool:
        states = [json.loads(docker("inspect", "--format={{json .State}}", id)) for id in self.compose("ps", "-q").split()]
        return len(states) == 5 and all(
            one["Running"] and one.get("Health", {"Status": "healthy"})["Status"] == "healthy" for one in states
        )

    def up(self) -> None:
        self.compose("up", "--detach", "--build")
        wait_until(self.healthy, deadline_seconds=300, what="all services are healthy")

    def left(self) -> list[str]:
        mine = f"label=com.docker.compose.project={PROJECT}"
        return [*docker("ps", "-aq", f"--filter={mine}").split(), *docker("volume", "ls", "-q", f"--filter={mine}").split()]

    def materialized(self) -> dict[str, bool]:
        """Make the first assets of the built-in use case, and say of each whether it was reused."""
        started = self._asked(LAUNCH, params={"selector": JOB, "mode": "default", "runConfigData": {}})["launchPipelineExecution"]
        assert "run" in started, started
        run = started["run"]["runId"]
        wait_until(lambda: self._status(run) in ("SUCCESS", "FAILURE", "CANCELED"), deadline_seconds=240, what="the run ends")
        assert self._status(run) == "SUCCESS", self.compose("logs", "--tail=50", "code", "daemon")
        return {path[-1]: self._reused(path, run) for path in ASSETS}

    def runs(self, path: list[str]) -> list[str]:
        """Ids of the runs that made an asset, newest first."""
        return [one["runId"] for one in self._materializations(path)]

    def _status(self, run: str) -> str:
        return self._asked("query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }", run=run)["runOrError"]["status"]

    def _reused(self, path: list[str], run: str) -> bool:
        (entries,) = (one["metadataEntries"] for one in self._materializations(path) if one["runId"] == run)
        return next(entry["boolValue"] for entry in entries if entry["label"] == "reused")

    def _materializations(self, path: list[str]) -> list[dict[str, Any]]:
        return self._asked(MADE, path=path)["assetOrError"]["assetMaterializations"]

    def _asked(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = httpx.post(f"http://127.0.0.1:{self.web_port}/graphql", json={"query": query, "variables": variables}, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("compose"))
    try:
        made.up()
        yield made
    finally:
        made.compose("down", "--volumes", "--remove-orphans", "--timeout=5")
    assert made.left() == []


def test_the_stack_keeps_its_state_over_restarts_and_down(stack: Stack):
    assert stack.materialized() == {"objective": False, "raw_examples": False}
    logged = stack.compose("exec", "-T", "webserver", "find", "/var/lib/fine_tune_pipeline/output_of_runs", "-name", "*.err")
    assert logged.strip(), "the web server has no output of the run"

    stack.compose("restart", "--timeout=5", "postgres", "code")
    wait_until(stack.healthy, deadline_seconds=300, what="all services are healthy again")
    assert stack.materialized() == {"objective": True, "raw_examples": True}

    stack.compose("down", "--timeout=5")
    stack.up()
    assert len(stack.runs(ASSETS[0])) == 2


def test_the_code_location_reaches_mlflow_by_its_name_and_strangers_do_not(stack: Stack):
    code = "import mlflow; mlflow.set_experiment('of-the-test'); mlflow.start_run(); mlflow.log_metric('loss', 1.5)"
    stack.compose("exec", "-T", "code", "python3", "-c", code)
    search = {"max_results": 10}
    found = httpx.post(f"http://127.0.0.1:{stack.mlflow_port}/api/2.0/mlflow/experiments/search", json=search, timeout=60)
    assert "of-the-test" in {one["name"] for one in found.raise_for_status().json()["experiments"]}
    strange = httpx.get(
        f"http://127.0.0.1:{stack.mlflow_port}/api/2.0/mlflow/experiments/search", headers={"Host": "example.org"}, timeout=60
    )
    assert strange.status_code == 403
