"""What the place `ray` makes of a cluster's words and refusals, without a cluster."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.programs.searching.ray_nodes import TASKS_VARIABLE, RayTasks
from fine_tune_pipeline.resources.compute.choice import UnknownPlace, chosen_compute
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, PlaceFailure
from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline.resources.compute.ray import Ray
from fine_tune_pipeline.resources.compute.ray_life import ended_by
from fine_tune_pipeline_tests.resources.compute.odd_program import OddRequest

pytest.importorskip("ray.job_submission", reason="needs fine_tune_pipeline[ray]")


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Answers every request with its `answer`: status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = self.server.answer
            self.server.seen = dict(self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    made = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b"<html>another service"), "answers, but not as the dashboard of Ray"),
        ((404, b"not here"), "answers, but not as the dashboard of Ray"),
        ((200, b'{"ray_version": "1.13.0"}'), "1.13.0 is running on the cluster"),
        ((401, b"no token"), "compute.place.headers: .* does not let us in: .*Want a token that is valid still"),
        ((403, b"expired"), "compute.place.headers: .* does not let us in: .*expired"),
        ((503, b"starting"), "no Ray cluster answers at .*503 starting"),
    ],
)
def test_what_answers_in_the_place_of_a_cluster_is_told_apart(server: HTTPServer, answer: tuple[int, bytes], said: str):
    server.answer = answer
    with pytest.raises(PlaceFailure, match=said):
        Ray(address=f"http://127.0.0.1:{server.server_port}").inventory()


def test_a_cluster_that_is_not_there_is_said_with_its_address(server: HTTPServer):
    server.server_close()
    with pytest.raises(PlaceFailure, match=rf"no Ray cluster answers at http://127.0.0.1:{server.server_port}: .*http://<head>:8265"):
        Ray(address=f"http://127.0.0.1:{server.server_port}").inventory()


@pytest.mark.parametrize("where", ["of the last cluster here", "in the environment"])
def test_a_cluster_that_has_ended_is_said_with_what_to_set(server: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str):
    server.server_close()
    ended = f"127.0.0.1:{server.server_port}"
    if where == "in the environment":
        monkeypatch.setenv("RAY_ADDRESS", ended)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(ended, encoding="utf-8")
    shown = ended if where == "in the environment" else "this machine"
    with pytest.raises(
        PlaceFailure, match=rf"no Ray cluster answers at {shown}: nobody listens at \S+:{server.server_port} .*Set it, or RAY_ADDRESS, to"
    ):
        Ray().inventory()


def test_a_machine_without_a_cluster_is_said_with_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    with pytest.raises(
        PlaceFailure, match=r"no Ray cluster answers at this machine: Could not find any running .*Set it, or RAY_ADDRESS, to"
    ):
        Ray().inventory()


def test_an_answer_that_ray_itself_waits_for_in_vain_is_said(monkeypatch: pytest.MonkeyPatch):
    from ray.exceptions import RpcError

    def in_vain(*_: object, **__: object) -> None:
        raise RpcError("Timed out while waiting for GCS")

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient.__init__", in_vain)
    with pytest.raises(PlaceFailure, match="no Ray cluster answers at http://head:8265: Timed out while waiting for GCS"):
        Ray(address="http://head:8265").inventory()


def test_a_header_takes_its_secret_from_the_environment(server: HTTPServer, monkeypatch: pytest.MonkeyPatch):
    server.answer = (404, b"")
    place = Ray(address=f"http://127.0.0.1:{server.server_port}", headers={"Authorization": "Bearer $RAY_TOKEN"})
    with pytest.raises(PlaceFailure, match=r"headers.Authorization: got 'Bearer \$RAY_TOKEN', and the environment has no such variable"):
        place.inventory()
    monkeypatch.setenv("RAY_TOKEN", "hunter2")
    with pytest.raises(PlaceFailure, match="dashboard"):
        place.inventory()
    assert server.seen["Authorization"] == "Bearer hunter2"


def test_an_address_that_ray_would_override_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://elsewhere:10001")
    with pytest.raises(PlaceFailure, match="address is http://here:8265, but Ray puts RAY_ADDRESS=ray://elsewhere:10001 above it"):
        Ray(address="http://here:8265").inventory()


def job(status: str, message: str = "", error_type: str | None = None, exit_code: int | None = None) -> object:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

    facts = {"type": "SUBMISSION", "entrypoint": "", "driver_exit_code": exit_code}
    return JobDetails(status=status, message=message, error_type=error_type, **facts)


NODES = {"head": {"CPU": 2.0, "memory": 2.0 * (1 << 30)}, "one": {"CPU": 8.0, "GPU": 2.0, "tag": 0.3}, "two": {"CPU": 4.0, "GPU": 4.0}}


@pytest.mark.parametrize(
    ("settings", "room"),
    [({"cpus": 2}, 7), ({"cpus": 1, "gpus": 1}, 6), ({"cpus": 4, "gpus": 1}, 3), ({"resources": {"tag": 0.1}}, 3), ({"memory_gib": 1}, 2)],
)
def test_as_many_tasks_at_the_same_time_as_the_nodes_have_room_for(monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], room: int):
    monkeypatch.setattr("fine_tune_pipeline.resources.compute.ray.connected", lambda *_, **__: None)
    monkeypatch.setattr("fine_tune_pipeline.resources.compute.ray.nodes", lambda client: NODES)
    place = Ray(address="http://head:8265", **settings)
    assert place.refused(room) == ""
    assert place.refused(room + 1).startswith(f"the Ray cluster has room for {room} tasks of ")
    assert "a node of 8 CPU, 2 GPU, 0.3 tag" in place.refused(room + 1)


def test_a_job_whose_tasks_do_the_work_takes_nothing_from_them_and_tells_what_they_may_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("fine_tune_pipeline.resources.compute.ray.nodes", lambda client: NODES)
    asked: dict[str, Any] = {}

    class Client:
        def submit_job(self, **given: object) -> str:
            asked.update(given)
            return "id"

    class Spread(OddRequest):
        at_once: int = 2
        device: str = "cuda"

    place = Ray(address="http://head:8265", cpus=4, gpus=1, grace_seconds=7)
    for count, given in ((2, {"entrypoint_label_selector"}), (1, {"entrypoint_num_cpus", "entrypoint_num_gpus"})):
        asked.clear()
        place._submit(Client(), Job(request=Spread(output=str(tmp_path), do="answer", at_once=count), folder=tmp_path), ["python"])
        assert {name for name, value in asked.items() if name.startswith("entrypoint_") and value is not None} == given
        told = asked["runtime_env"]["env_vars"].get(TASKS_VARIABLE)
        assert (told is None) == (count == 1)
        if told is not None:
            assert asked["entrypoint_label_selector"] == {"ray.io/node-id": "one"}
            assert RayTasks.model_validate_json(told) == RayTasks(resources={"CPU": 4, "GPU": 1}, grace_seconds=7)


def test_nodes_that_share_no_folder_share_no_search():
    assert Ray(staging="s3://bucket/stage").refused(2).startswith("compute.place.staging: nodes that share no folder cannot share a search")


def test_other_places_run_one_after_another_and_say_what_runs_more():
    assert Local().refused(2).startswith("compute is local, where tasks of one program run one after another; choose a Ray cluster")


# Messages of Ray 2.60, shortened.
@pytest.mark.parametrize(
    ("info", "ended"),
    [
        (("SUCCEEDED",), Ended(Cause.DONE, 0)),
        (("FAILED", "failed with exit code 3", "JOB_ENTRYPOINT_COMMAND_ERROR", 3), Ended(Cause.ERROR, 3)),
        (("FAILED", "failed with exit code -9", "JOB_ENTRYPOINT_COMMAND_ERROR", -9), Ended(Cause.ERROR, -9)),
        (("FAILED", "failed with exit code 137", "JOB_ENTRYPOINT_COMMAND_ERROR", 137), Ended(Cause.ERROR, -9)),
        (
            (
                "FAILED",
                "Job supervisor actor died: 1 worker(s) were killed due to the node running low on memory.",
                "JOB_SUPERVISOR_ACTOR_DIED",
            ),
            Ended(
                Cause.OUT_OF_MEMORY,
                said="Ray says: Job supervisor actor died: 1 worker(s) were killed due to the node running low on memory.",
            ),
        ),
        (
            ("FAILED", "Job supervisor actor died: node was terminated", "JOB_SUPERVISOR_ACTOR_DIED"),
            Ended(Cause.LOST, said="Ray says: Job supervisor actor died: node was terminated"),
        ),
        (("STOPPED",), Ended(Cause.LOST, said="Somebody stopped the job on the cluster.")),
    ],
)
def test_what_ray_says_of_a_job_becomes_a_cause(info: tuple[str], ended: Ended):
    assert ended_by(job(*info)) == ended


@pytest.mark.parametrize("error_type", ["RUNTIME_ENV_SETUP_FAILURE", "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"])
def test_a_job_that_could_not_begin_is_no_program_that_failed(error_type: str):
    with pytest.raises(PlaceFailure, match=f"could not start the program \\({error_type}\\): pip failed"):
        ended_by(job("FAILED", "pip failed", error_type))


def test_the_environment_chooses_a_cluster_with_its_settings(tmp_path: Path):
    file = tmp_path / "place.yaml"
    file.write_text("{kind: ray, address: 'http://head:8265', cpus: 8, resources: {worker: 1}, runtime_env: {pip: [x]}}", encoding="utf-8")
    place = chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": str(file)}).place
    assert isinstance(place, Ray)
    assert (place.address, place.cpus, place.resources, place.runtime_env) == ("http://head:8265", 8, {"worker": 1}, {"pip": ["x"]})
    file.write_text("{kind: ray, cpus: -1}", encoding="utf-8")
    with pytest.raises(UnknownPlace, match="cpus: got -1: Input should be greater than 0"):
        chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": str(file)})


def test_a_single_run_chooses_a_cluster_by_its_configuration():
    seen: list[object] = []

    @dg.asset
    def odd(compute: PlacedCompute) -> None:
        seen.append(compute.place)

    place = {"address": "http://head:8265", "gpus": 1, "resources": {"worker": 0.5}, "runtime_env": {"pip": ["x"], "env_vars": {"A": "b"}}}
    run_config = {"resources": {"compute": {"config": {"place": {"ray": place}}}}}
    assert dg.materialize([odd], resources={"compute": PlacedCompute.configure_at_launch()}, run_config=run_config).success
    assert seen == [Ray(**place)]
