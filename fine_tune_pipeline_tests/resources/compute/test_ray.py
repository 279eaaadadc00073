"""What only a Ray cluster can do to a program; what holds at every place is in test_contract.py."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from fine_tune_pipeline.resources.compute.exchange import exchange, leased
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, PlaceFailure
from fine_tune_pipeline.resources.compute.ray import Ray
from fine_tune_pipeline_tests.resources.compute.odd_program import UNICODE, OddRequest, OddResult, ResumableRequest
from fine_tune_pipeline_tests.resources.compute.proxy import Proxy
from fine_tune_pipeline_tests.resources.compute.ray_stand import REPOSITORY, STORE_BYTES, WORKER, RayStand, client, cluster, ray_place
from fine_tune_pipeline_tests.resources.compute.stands import processes_with
from fine_tune_pipeline_tests.waiting import wait_until

pytestmark = pytest.mark.ray

STARTER = """
import sys
from pathlib import Path
from fine_tune_pipeline.resources.compute.ray import Ray
from fine_tune_pipeline_tests.resources.compute.odd_program import ResumableRequest
from fine_tune_pipeline_tests.resources.compute.test_ray import execute
execute(Ray.model_validate_json(sys.argv[1]), ResumableRequest(output=sys.argv[2], do="wait"))
"""


def execute(place: Ray, request: OddRequest, *, handed_on: tuple[str, ...] = ()) -> Ended:
    with exchange(request) as talk, leased(talk, place.lease) as lease:
        return place.execute(Job(request=request, folder=talk, environment=lease, handed_on=handed_on))


@contextmanager
def started(place: Ray, request: OddRequest) -> Iterator["Future[Ended]"]:
    """A program that waits for `go`, once it runs."""
    with ThreadPoolExecutor() as pool:
        run = pool.submit(execute, place, request)
        wait_until((Path(request.output) / "pids").exists, what="the program runs")
        yield run


def go(folder: Path) -> None:
    (folder / "go").touch()


def through(proxy: Proxy, **settings: float) -> Ray:
    return ray_place(address=f"http://127.0.0.1:{proxy.port}", resources={WORKER: 1}, **settings)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(int(cluster().webui_url.rsplit(":", 1)[1])) as way:
        yield way


def test_resources_that_never_come_are_told_beside_what_the_cluster_has_and_nothing_waits_on(tmp_path: Path):
    place = ray_place(memory_gib=0.5, resources={WORKER: 1, "tpu": 2}, start_seconds=1)
    with pytest.raises(PlaceFailure) as failure:
        execute(place, OddRequest(output=str(tmp_path), do="answer"))
    said = str(failure.value)
    assert "wants 0.5 CPU, 0.5 GiB memory, 2 tpu, 1 worker on one node" in said
    assert "a node of 2 CPU, 2 GiB memory" in said
    assert "a node of 2 CPU, 1 GPU, 1 GiB memory, 1 accelerator_type:A100, 2 worker" in said
    assert RayStand().left(tmp_path) == []
    assert [job.submission_id for job in client().list_jobs() if not job.status.is_terminal()] == []


def test_a_connection_that_breaks_costs_neither_the_program_nor_a_line(proxy: Proxy, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with started(through(proxy), OddRequest(output=str(tmp_path), do="wait")) as run:
        seen = ""

        def shown() -> bool:
            nonlocal seen
            seen += capfd.readouterr().err
            return f"line 2 {UNICODE}" in seen

        wait_until(shown, what="the output arrives")
        taken = proxy.taken
        proxy.close()
        wait_until(lambda: proxy.taken > taken + 2, what="the place asks in vain")
        proxy.reopen()
        go(tmp_path)
        ended = run.result()
    seen += capfd.readouterr().err
    assert ended.cause == Cause.DONE
    assert [seen.count(line) for line in (f"line 0 {UNICODE}", f"line 2 {UNICODE}", "gone on")] == [1, 1, 1]
    assert "gone on\n" in ended.tail
    assert RayStand().left(tmp_path) == []


def test_a_program_of_a_starter_that_was_killed_is_adopted_by_the_next_try(tmp_path: Path):
    place = ray_place(resources={WORKER: 1})
    command = [sys.executable, "-c", STARTER, place.model_dump_json(), str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY) as starter:
        wait_until((tmp_path / "pids").exists, what="the program runs")
        starter.kill()
    first = (tmp_path / "pids").read_text(encoding="utf-8")
    with ThreadPoolExecutor() as pool:
        run = pool.submit(execute, place, ResumableRequest(output=str(tmp_path), do="wait"))
        go(tmp_path)
        assert run.result().cause == Cause.DONE
    assert (tmp_path / "times").read_text(encoding="utf-8") == "."
    assert (tmp_path / "pids").read_text(encoding="utf-8") == first
    assert RayStand().left(tmp_path) == []


def test_a_cluster_out_of_reach_loses_the_program_which_ends_by_its_lease(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fine_tune_pipeline.resources.compute.ray_life.STOP_SECONDS", 1)
    request = OddRequest(output=str(tmp_path), do="wait")
    with started(through(proxy, patience_seconds=1, lease_seconds=3), request) as run:
        proxy.close()
        with pytest.raises(PlaceFailure, match=r"cannot be ended .* ends by itself within 3 s"):
            run.result()
    wait_until(lambda: not processes_with(tmp_path), what="the program ends by its lease")
    proxy.reopen()
    wait_until(lambda: all(job.status.is_terminal() for job in client().list_jobs()), what="the cluster knows")
    for job in client().list_jobs():
        client().delete_job(str(job.submission_id))


def test_a_node_that_dies_loses_the_program(tmp_path: Path):
    node = cluster().add_node(num_cpus=1, memory=1 << 30, object_store_memory=STORE_BYTES, resources={"doomed": 1})
    with started(ray_place(resources={"doomed": 1}), OddRequest(output=str(tmp_path), do="wait")) as run:
        cluster().remove_node(node, allow_graceful=False)
        ended = run.result()
    assert ended.cause == Cause.LOST
    assert "terminated unexpectedly" in ended.said
    wait_until(lambda: not processes_with(tmp_path), what="the node's processes end")


@pytest.mark.parametrize(("how", "seen"), [("file", False), ("environment", True)])
def test_a_secret_reaches_the_program_and_the_cluster_keeps_it_only_if_told_so(
    how: str, seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ODD_SECRET", 'it\'s $HOME; "hunter2"')
    kept: list[str] = []
    monkeypatch.setattr(
        "fine_tune_pipeline.resources.compute.ray.forget", lambda client, name: kept.append(client.get_job_info(name).model_dump_json())
    )
    execute(ray_place(secrets=how), OddRequest(output=str(tmp_path), do="tell_secret"), handed_on=("ODD_SECRET",))
    assert OddResult.read(tmp_path / "result.json").said == 'it\'s $HOME; "hunter2"'
    exported = base64.b64encode(b"export ODD_SECRET=").decode("ascii")
    assert [exported in job for job in kept] == [seen]
    assert not any("hunter2" in job for job in kept)
    for job in client().list_jobs():
        client().delete_job(str(job.submission_id))


def test_the_inventory_is_that_of_the_node_that_takes_the_program():
    found = ray_place(gpus=1, cpus=2).inventory()
    assert [(device.name, device.memory_bytes, device.bfloat16) for device in found.devices] == [("A100", 40 << 30, True)]
    assert (found.cpu_cores, found.memory_bytes) == (2, 1 << 30)
    head = ray_place(resources={"node:__internal_head__": 0.1}).inventory()
    assert ([device.kind for device in head.devices], head.memory_bytes) == (["cpu"], 2 << 30)


def test_the_port_of_the_cluster_itself_is_told_from_that_of_the_dashboard(tmp_path: Path):
    with pytest.raises(PlaceFailure, match=r"compute\.place\.address.*http://<head>:8265|not the port of the cluster"):
        execute(ray_place(address=f"http://{cluster().address}"), OddRequest(output=str(tmp_path), do="answer"))


def test_an_environment_that_cannot_be_made_is_said(tmp_path: Path):
    place = ray_place(runtime_env={"working_dir": "file:///nowhere/code.zip"})
    with pytest.raises(PlaceFailure, match=r"could not start the program.*code\.zip"):
        execute(place, OddRequest(output=str(tmp_path), do="answer"))
    assert RayStand().left(tmp_path) == []


def test_nodes_that_share_no_folder_are_given_the_files(tmp_path: Path):
    source, output = tmp_path / "in" / "text", tmp_path / "out"
    for folder in (source.parent, output):
        folder.mkdir()
    source.write_text(UNICODE, encoding="utf-8")
    place = ray_place(staging=f"file://{tmp_path}/shelf", resources={WORKER: 1})
    assert execute(place, OddRequest(output=str(output), do="answer", source=str(source))).cause == Cause.DONE
    assert OddResult.read(output / "result.json").said == f"done {UNICODE}"
    assert list((tmp_path / "shelf" / "jobs").iterdir()) == []
    assert RayStand().left(tmp_path) == []
