"""What only a rented machine can do to a program, and what it costs; what holds at every place is in test_contract.py."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from fine_tune_pipeline.resources.compute.cloud import Cloud, ended_by
from fine_tune_pipeline.resources.compute.exchange import exchange
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, PlaceFailure
from fine_tune_pipeline.resources.compute.sky import Refused, SkyJob, price
from fine_tune_pipeline_tests.resources.compute.cloud_stand import REPOSITORY, CloudStand
from fine_tune_pipeline_tests.resources.compute.odd_program import OddRequest, OddResult, ResumableRequest
from fine_tune_pipeline_tests.waiting import wait_until

STARTER = """
import sys
from fine_tune_pipeline.resources.compute.cloud import Cloud
from fine_tune_pipeline_tests.resources.compute.odd_program import ResumableRequest
from fine_tune_pipeline_tests.resources.compute.test_cloud import execute
execute(Cloud.model_validate_json(sys.argv[1]), ResumableRequest(output=sys.argv[2], do="wait"))
"""


class OnDevice(OddRequest):
    """One that computes on an accelerator."""

    device: str = "cuda"


@pytest.fixture
def stand() -> Iterator[CloudStand]:
    made = CloudStand()
    yield made
    made.close()


def execute(place: Cloud, request: OddRequest, *, handed_on: tuple[str, ...] = ()) -> Ended:
    with exchange(request) as talk:
        return place.execute(Job(request=request, folder=talk, handed_on=handed_on))


def running(stand: CloudStand) -> list[Path]:
    """Outputs of programs that wait, at their machines."""
    return [path.parent for path in (stand.folder / "state").rglob("pids")]


def test_the_price_is_shown_before_anything_is_rented_and_too_high_a_price_refused(
    stand: CloudStand, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    request = OddRequest(output=str(tmp_path), do="answer")
    with pytest.raises(PlaceFailure, match=r"SkyPilot does not start odd_program: .*does not contain any instances"):
        execute(stand.cloud(price_limit_per_hour=0.5), request)
    assert stand.sky.jobs("") == []
    assert list((stand.folder / "state").iterdir()) == []
    assert execute(stand.cloud(price_limit_per_hour=0.8), request).cause == Cause.DONE
    said = capfd.readouterr().err
    assert "g6.xlarge" in said
    assert "price: 0.75 US dollars per hour (spot)" in said


def test_an_offer_above_the_limit_is_refused_even_where_skypilot_would_take_it(stand: CloudStand, tmp_path: Path):
    with pytest.raises(
        PlaceFailure, match=r"price_limit_per_hour: the cheapest machine costs 0\.75 US dollars per hour, want at most 0\.74"
    ):
        stand.cloud(price_limit_per_hour=0.74).affordable(stand.sky.offer(task_of(stand.cloud(), tmp_path), ()))


def task_of(place: Cloud, folder: Path) -> Path:
    request = OnDevice(output=str(folder), do="answer")
    job = Job(request=request, folder=folder, environment={"A": "b"})
    file = folder / "task.yaml"
    file.write_text(yaml.safe_dump(place.task(job, ["python", "-c", "print('a b')"])), encoding="utf-8")
    return file


def test_a_machine_that_is_taken_away_is_followed_by_another_that_goes_on(stand: CloudStand, tmp_path: Path):
    with ThreadPoolExecutor() as pool:
        run = pool.submit(execute, stand.cloud(), ResumableRequest(output=str(tmp_path), do="wait"))
        wait_until(lambda: running(stand), what="the program runs")
        subprocess.run([stand.command, "preempt", "1"], check=True)
        wait_until(lambda: len(running(stand)) == 2, what="another machine has taken it over")
        for output in running(stand):
            (output / "go").touch()
        assert run.result().cause == Cause.DONE
    assert OddResult.read(tmp_path / "result.json").said == "done"
    assert stand.left(tmp_path) == []


def test_a_job_of_a_starter_that_was_killed_is_not_paid_for_twice(stand: CloudStand, tmp_path: Path):
    place = stand.cloud()
    command = [sys.executable, "-c", STARTER, place.model_dump_json(), str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY) as starter:
        wait_until(lambda: running(stand), what="the program runs")
        starter.kill()
    with ThreadPoolExecutor() as pool:
        run = pool.submit(execute, place, ResumableRequest(output=str(tmp_path), do="wait"))
        (running(stand)[0] / "go").touch()
        assert run.result().cause == Cause.DONE
    assert len(list((stand.folder / "state").glob("*.task"))) == 1
    assert stand.left(tmp_path) == []


def test_values_of_secrets_reach_the_program_and_no_file_of_ours(stand: CloudStand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ODD_SECRET", "it's $HOME")
    written: list[str] = []
    launch = type(stand.sky).launch
    monkeypatch.setattr(
        "fine_tune_pipeline.resources.compute.sky.Sky.launch",
        lambda sky, name, task, secrets: written.append(task.read_text(encoding="utf-8")) or launch(sky, name, task, secrets),
    )
    execute(stand.cloud(), OddRequest(output=str(tmp_path), do="tell_secret"), handed_on=("ODD_SECRET",))
    assert OddResult.read(tmp_path / "result.json").said == "it's $HOME"
    assert yaml.safe_load(written[0])["secrets"] == {"ODD_SECRET": None}
    assert "it's" not in written[0]


def test_a_missing_skypilot_is_said_with_what_to_install(stand: CloudStand, tmp_path: Path):
    with pytest.raises(PlaceFailure, match=r"compute\.place\.sky: /nowhere/sky is not there\. Install SkyPilot"):
        execute(stand.cloud(sky="/nowhere/sky"), OddRequest(output=str(tmp_path), do="answer"))
    assert stand.left(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "code", "ended"),
    [
        ("SUCCEEDED", 0, Ended(Cause.DONE, 0)),
        ("FAILED", 3, Ended(Cause.ERROR, 3)),
        ("FAILED", -9, Ended(Cause.ERROR, -9)),
        ("FAILED", None, Ended(Cause.LOST, said="SkyPilot says: FAILED why")),
        ("FAILED_CONTROLLER", None, Ended(Cause.LOST, said="SkyPilot says: FAILED_CONTROLLER why")),
        ("CANCELLED", None, Ended(Cause.LOST, said="Somebody cancelled the job.")),
    ],
)
def test_what_skypilot_says_of_a_job_becomes_a_cause(status: str, code: int | None, ended: Ended):
    assert ended_by(SkyJob(1, status, "why"), code) == ended


@pytest.mark.parametrize("status", ["FAILED_NO_RESOURCE", "FAILED_SETUP", "FAILED_PRECHECKS"])
def test_a_program_without_a_machine_is_no_program_that_failed(status: str):
    with pytest.raises(PlaceFailure, match=f"could not start the program \\({status}\\): no capacity"):
        ended_by(SkyJob(1, status, "no capacity"), None)


def test_an_offer_without_a_price_is_not_taken_for_a_free_one():
    with pytest.raises(Refused, match="names no price: Nothing to see"):
        price("Nothing to see")


def test_the_inventory_is_what_is_asked_for(stand: CloudStand):
    found = stand.cloud(accelerator="A100-80GB", gpus=2, cpus=8, memory_gib=64).inventory()
    assert [(device.name, device.memory_bytes >> 30) for device in found.devices] == [("A100-80GB", 80)] * 2
    assert (found.cpu_cores, found.memory_bytes >> 30) == (8, 64)
    with pytest.raises(PlaceFailure, match="gpu_memory_gib: the memory of an accelerator named 'Z9' is not known"):
        stand.cloud(accelerator="Z9", gpus=1).inventory()


@pytest.mark.parametrize("settings", [{"accelerator": "L4"}, {"gpus": 1}])
def test_accelerators_have_a_type_and_a_number(stand: CloudStand, settings: dict[str, object]):
    with pytest.raises(ValidationError, match="want both, such as L4 and 1, or neither"):
        stand.cloud(**settings)


def test_a_program_that_computes_on_no_accelerator_rents_none(stand: CloudStand, tmp_path: Path):
    place = stand.cloud(accelerator="L4", gpus=1)
    plain = place.task(Job(request=OddRequest(output=str(tmp_path), do="answer"), folder=tmp_path), ["true"])
    assert "accelerators" not in plain["resources"]
    assert yaml.safe_load(task_of(place, tmp_path).read_text(encoding="utf-8"))["resources"]["accelerators"] == {"L4": 1}
