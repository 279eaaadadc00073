"""What only a Docker engine can do to a program; what holds at every place is in test_contract.py."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.programs.requests import TrainResult
from fine_tune_pipeline.resources.compute.docker import Docker
from fine_tune_pipeline.resources.compute.exchange import exchange, leased
from fine_tune_pipeline.resources.compute.inventory import Device
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, PlaceFailure, failure
from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline.resources.compute.place import Place
from fine_tune_pipeline_tests.docker_images import BASE_IMAGE, REPOSITORY, WHOLE, OwnEngine, docker, site_packages
from fine_tune_pipeline_tests.resources.compute.docker_stand import DockerStand, containers
from fine_tune_pipeline_tests.resources.compute.odd_program import UNICODE, OddRequest, OddResult
from fine_tune_pipeline_tests.resources.compute.proxy import Proxy
from fine_tune_pipeline_tests.resources.compute.stands import processes_with
from fine_tune_pipeline_tests.small_training import train_request, write_rows
from fine_tune_pipeline_tests.tiny import tiny_model
from fine_tune_pipeline_tests.waiting import wait_until

pytestmark = pytest.mark.docker

SOCKET = "/var/run/docker.sock"

STARTER = """
import sys
from fine_tune_pipeline.resources.compute.docker import Docker
from fine_tune_pipeline_tests.resources.compute.odd_program import OddRequest
from fine_tune_pipeline_tests.resources.compute.test_docker import execute
execute(Docker.model_validate_json(sys.argv[1]), OddRequest(output=sys.argv[2], do="wait"))
"""


class OnDevice(OddRequest):
    """A program that wants an accelerator."""

    device: str = "cuda"


def execute(place: Place, request: Any, *, handed_on: tuple[str, ...] = (), variables: dict[str, str] | None = None) -> Ended:
    with exchange(request) as talk, leased(talk, place.lease) as lease:
        environment = {**lease, **(variables or {})}
        return place.execute(Job(request=request, folder=talk, environment=environment, handed_on=handed_on))


def place(**settings: Any) -> Docker:
    return DockerStand().place(**settings)


@contextmanager
def started(docker_place: Docker, folder: Path, **more: Any) -> Iterator["Future[Ended]"]:
    """A program that waits for `go`, once it runs."""
    with ThreadPoolExecutor() as pool:
        run = pool.submit(execute, docker_place, OddRequest(output=str(folder), do="wait"), **more)
        wait_until(lambda: (folder / "pids").exists() or run.done(), what="the program runs")
        yield run


def go(folder: Path) -> None:
    (folder / "go").touch()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(SOCKET) as way:
        yield way


def test_a_program_has_no_rights_and_only_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ODD_SECRET", "tell-nobody")
    limited = place(memory_gib=0.25, cpus=0.5, shm_gib=0.125)
    with started(limited, tmp_path, handed_on=("ODD_SECRET",)) as run:
        (seen,) = containers(tmp_path)
        facts = Path(f"/proc/{processes_with(tmp_path)[0].split()[-1]}/status").read_text(encoding="utf-8")
        go(tmp_path)
        assert run.result().cause == Cause.DONE
    host, told = seen["HostConfig"], dict(line.split(":\t") for line in facts.splitlines())
    assert (told["Uid"].split()[0], int(told["CapEff"], 16), told["NoNewPrivs"]) == ("10001", 0, "1")
    assert host["ReadonlyRootfs"]
    assert host["Init"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["Memory"], host["MemorySwap"], host["ShmSize"], host["NanoCpus"]) == (1 << 28, 1 << 28, 1 << 27, 5 * 10**8)
    assert [(mount["Source"], mount["RW"]) for mount in seen["Mounts"]] == [(str(tmp_path), True)]
    assert "tell-nobody" not in json.dumps({**seen, "Config": {**seen["Config"], "Env": []}})
    assert seen["Config"]["Labels"]["fine_tune_pipeline.use"] == "odd_program"
    assert DockerStand().left(tmp_path) == []


def test_a_secret_reaches_the_program_by_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setenv("ODD_SECRET", "tell-nobody")
    ended = execute(place(), OddRequest(output=str(tmp_path), do="tell_secret"), handed_on=("ODD_SECRET",))
    assert OddResult.read(tmp_path / "result.json").said == "tell-nobody"
    assert "tell-nobody" not in ended.tail + "".join(capfd.readouterr())


def test_what_is_not_given_cannot_be_written(tmp_path: Path):
    source = tmp_path / "source"
    source.write_text("text", encoding="utf-8")
    source.chmod(0o666)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "times").symlink_to(source)
    ended = execute(place(), OddRequest(output=str(tmp_path / "output"), do="answer", source=str(source)))
    assert ended.cause == Cause.ERROR
    assert "Read-only file system" in ended.tail
    assert source.read_text(encoding="utf-8") == "text"


def test_a_program_that_takes_more_than_its_memory_is_told_how_much_it_had(tmp_path: Path):
    request = OddRequest(output=str(tmp_path), do="take_memory")
    ended = execute(place(memory_gib=0.1), request, variables={"ODD_MEMORY_LIMITED": "1"})
    assert ended.cause == Cause.OUT_OF_MEMORY
    said = failure(Job(request=request, folder=tmp_path), ended).description or ""
    assert "was killed for its memory. compute.place.memory_gib is 0.1. It took more memory than the place gives it" in said


def test_the_program_of_a_killed_run_ends_by_its_lease_and_its_container_goes_with_the_next_start(tmp_path: Path):
    killed, other = tmp_path / "killed", tmp_path / "other"
    killed.mkdir()
    other.mkdir()
    with _started_elsewhere(place(lease_seconds=3), killed) as starter:
        starter.kill()
    wait_until(lambda: not processes_with(killed), what="the program ends by its lease")
    wait_until(lambda: containers(killed)[0]["State"]["Status"] == "exited", what="the container ends")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fine_tune_pipeline.resources.compute.docker_engine.REAP_SECONDS", 0)
        assert execute(place(), OddRequest(output=str(other), do="answer")).cause == Cause.DONE
    assert DockerStand().left(tmp_path) == []


def test_the_next_try_of_the_same_work_never_runs_beside_the_first(tmp_path: Path):
    with _started_elsewhere(place(), tmp_path) as starter:
        starter.kill()
    (first,) = containers(tmp_path)
    (tmp_path / "pids").unlink()
    with started(place(), tmp_path) as run:
        (second,) = containers(tmp_path)
        assert (second["Name"], second["Id"] != first["Id"]) == (first["Name"], True)
        go(tmp_path)
        assert run.result().cause == Cause.DONE
    assert (tmp_path / "times").read_text(encoding="utf-8") == "."
    assert DockerStand().left(tmp_path) == []


@contextmanager
def _started_elsewhere(docker_place: Docker, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of its own that runs a program which waits."""
    command = [sys.executable, "-c", STARTER, docker_place.model_dump_json(), str(folder)]
    with subprocess.Popen(command, cwd=REPOSITORY) as starter:
        wait_until((folder / "pids").exists, what="the program runs")
        yield starter


def test_a_connection_that_breaks_costs_neither_the_program_nor_a_line(proxy: Proxy, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with started(place(host=f"tcp://127.0.0.1:{proxy.port}"), tmp_path) as run:
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
    assert "gone on" in ended.tail.splitlines()
    assert DockerStand().left(tmp_path) == []


def test_an_engine_that_does_not_come_back_loses_the_program_which_ends_by_its_lease(proxy: Proxy, tmp_path: Path):
    away = place(host=f"tcp://127.0.0.1:{proxy.port}", reconnect_seconds=1, lease_seconds=3)
    with started(away, tmp_path) as run:
        proxy.close()
        ended = run.result()
    assert ended.cause == Cause.LOST
    assert "The Docker engine has been away for 1 s" in ended.said
    wait_until(lambda: not processes_with(tmp_path), what="the program ends by its lease")
    (tmp_path / "pids").unlink()
    with started(place(), tmp_path) as run:
        go(tmp_path)
        assert run.result().cause == Cause.DONE
    assert DockerStand().left(tmp_path) == []


@pytest.fixture(scope="module")
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    with OwnEngine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.mark.parametrize(
    ("flags", "cause", "said"),
    [((), Cause.LOST, "as when the engine is started again"), (("--live-restore",), Cause.DONE, "")],
    ids=["usual", "keeps containers"],
)
def test_an_engine_that_is_started_again_has_ended_the_program_unless_it_keeps_containers(
    flags: tuple[str, ...], cause: Cause, said: str, own_engine: OwnEngine, tmp_path: Path
):
    own_engine.end()
    own_engine.start(*flags)
    with started(place(host=own_engine.host, network="none"), tmp_path) as run:
        own_engine.end()
        go(tmp_path)
        own_engine.start(*flags)
        ended = run.result()
    assert (ended.cause, said in ended.said) == (cause, True)
    assert processes_with(tmp_path) == []


@pytest.mark.parametrize("command", [("rm", "--force"), ("stop",), ("kill", "--signal=TERM")], ids=lambda command: command[0])
def test_a_container_that_somebody_else_ends_is_lost(command: tuple[str, ...], tmp_path: Path):
    with started(place(), tmp_path) as run:
        docker(*command, containers(tmp_path)[0]["Id"])
        ended = run.result()
    assert ended.cause == Cause.LOST
    assert "container" in ended.said
    assert DockerStand().left(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image": "fine_tune_pipeline:absent"}, r"compute\.place\.image: fine_tune_pipeline:absent is not on the engine: build it"),
        ({"image": "127.0.0.1:1/absent", "pull": "missing"}, r"compute\.place\.image: 127\.0\.0\.1:1/absent cannot be pulled: build it"),
        ({"image": BASE_IMAGE}, r"compute\.place\.image: .* has no fine_tune_pipeline; docker/Dockerfile makes one"),
        ({"python": "python9"}, r"compute\.place\.python: image .* has no python9"),
        ({"runtime": "nvidia"}, r"compute\.place\.runtime: the engine has no such runtime"),
        ({"network": "absent"}, r"compute\.place\.network: the engine has no such network"),
        ({"memory_gib": 0.001}, r"compute\.place\.memory_gib: less than a container can live in"),
        ({"cpus": 1000}, r"compute\.place\.cpus: more than the engine has"),
        ({"volumes": {"/absent": "/data"}}, r"compute\.place\.volumes. The engine said"),
        ({"host": "unix:///absent.sock"}, r"no engine answers: start it"),
        ({"host": "tcp://127.0.0.1:1"}, r"no engine answers: start it"),
    ],
)
def test_what_the_engine_refuses_is_told_with_what_to_do(settings: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(PlaceFailure, match=said):
        execute(place(**settings), OddRequest(output=str(tmp_path), do="answer"))
    assert DockerStand().left(tmp_path) == []


def test_a_user_who_may_not_use_the_engine_is_told_how_to(tmp_path: Path):
    asked = place()
    execute(asked, OddRequest(output=str(tmp_path), do="answer"))  # Nothing is left to import, for which we would have no rights.
    os.seteuid(65534)
    try:
        with pytest.raises(PlaceFailure, match="join the group docker"):
            asked.inventory()
    finally:
        os.seteuid(0)


def test_an_engine_without_gpus_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fine_tune_pipeline.resources.compute.docker.nvidia_devices", lambda: ())
    with pytest.raises(PlaceFailure, match=r"compute\.place\.gpus: the engine has no GPU driver: install the NVIDIA Container Toolkit"):
        execute(place(gpus=1), OnDevice(output=str(tmp_path), do="answer"))
    assert DockerStand().left(tmp_path) == []


def test_a_program_is_given_a_gpu_that_no_other_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from docker.models.containers import Container

    requests: list[Any] = []
    start = Container.start

    def seen(container: Container) -> None:
        requests.append(container.client.api.inspect_container(container.id)["HostConfig"]["DeviceRequests"])
        start(container)

    monkeypatch.setattr(Container, "start", seen)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    gpu = Device(kind="cuda", name="A", memory_bytes=1, bfloat16=True)
    monkeypatch.setattr("fine_tune_pipeline.resources.compute.docker.nvidia_devices", lambda: (gpu, gpu))
    with pytest.raises(PlaceFailure, match="GPU"):
        execute(place(gpus=1), OnDevice(output=str(tmp_path), do="answer"))
    assert [(one["Count"], one["DeviceIDs"], one["Capabilities"]) for one in requests[0]] == [(0, ["1"], [["gpu"]])]


def test_a_named_volume_stands_for_the_folders_in_it(tmp_path: Path):
    tmp_path.chmod(0o755)
    (tmp_path / "output").mkdir()
    options = [f"--opt={option}" for option in ("type=none", "o=bind", f"device={tmp_path}")]
    volume = docker("volume", "create", *options).strip()
    try:
        ended = execute(place(volumes={volume: str(tmp_path)}), OddRequest(output=str(tmp_path / "output"), do="answer"))
    finally:
        docker("volume", "rm", volume)
    assert ended.cause == Cause.DONE
    assert OddResult.read(tmp_path / "output" / "result.json").said == "done"


def test_the_inventory_is_what_a_program_would_be_given():
    whole, part = place().inventory(), place(cpus=1.5, memory_gib=0.5).inventory()
    assert (whole.place, whole.devices[0].kind, whole.cpu_cores) == ("docker", "cpu", os.cpu_count())
    assert (part.cpu_cores, part.memory_bytes, part.devices[0].memory_bytes) == (1, 1 << 29, 1 << 29)


def test_the_same_training_gives_the_same_adapter_in_a_container_as_here(tmp_path: Path):
    model, rows = tiny_model(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    for file in model.iterdir():
        # As a store's files are: saved weights are their owner's alone.
        file.chmod(0o644)
    places = {"here": Local(), "container": place(volumes={site_packages(): f"{WHOLE}:ro"}, shm_gib=0.25)}
    variables = {"OMP_NUM_THREADS": "1"}
    for name, where in places.items():
        ended = execute(where, train_request(tmp_path / name, model=model, train=rows), variables=variables)
        assert ended.cause == Cause.DONE, ended.tail
    here, there = (TrainResult.read(tmp_path / name / "result.json") for name in places)
    assert there.adapter_sha256 == here.adapter_sha256
    assert (there.final_loss, there.steps) == (here.final_loss, here.steps)
    assert DockerStand().left(tmp_path) == []
