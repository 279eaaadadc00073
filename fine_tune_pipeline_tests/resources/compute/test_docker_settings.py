"""What of the place docker needs no engine."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from docker.errors import APIError

from fine_tune_pipeline.programs.requests import Tracking
from fine_tune_pipeline.resources.compute.choice import chosen_compute
from fine_tune_pipeline.resources.compute.docker import Docker, status_of
from fine_tune_pipeline.resources.compute.docker_engine import abandoned, explained
from fine_tune_pipeline.resources.compute.exchange import exchange
from fine_tune_pipeline.resources.compute.job import Job, PlaceFailure
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline_tests.small_training import train_request, write_rows

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("uri", "settings", "said"),
    [
        ("sqlite:///{folder}/mlflow.db", {}, "a file that the container does not see: start an MLflow server"),
        ("{folder}/mlruns", {}, "a file that the container does not see"),
        ("sqlite:///{folder}/mlflow.db", {"volumes": {"state": "{folder}:ro"}}, "a file that the container does not see"),
        ("http://localhost:5000", {}, "localhost is the container itself: give MLFLOW_TRACKING_URI the name"),
        ("sqlite:///{folder}/mlflow.db", {"volumes": {"state": "{folder}"}}, "no engine answers"),
        ("http://localhost:5000", {"network": "host"}, "no engine answers"),
        ("http://mlflow:5000", {}, "no engine answers"),
    ],
)
def test_a_tracking_server_that_no_container_reaches_is_refused_before_anything_starts(
    uri: str, settings: dict[str, Any], said: str, tmp_path: Path
):
    (tmp_path / "model").mkdir()
    tracking = Tracking(uri=uri.format(folder=tmp_path), experiment="e", run_name="r")
    request = train_request(tmp_path / "output", model=tmp_path / "model", train=write_rows(tmp_path / "rows"))
    request = request.model_copy(update={"tracking": tracking})
    volumes = {name: where.format(folder=tmp_path) for name, where in settings.get("volumes", {}).items()}
    place = Docker(host="tcp://127.0.0.1:1", **{**settings, "volumes": volumes})
    with exchange(request) as talk, pytest.raises(PlaceFailure, match=said):
        place.execute(Job(request=request, folder=talk))


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ("write /var/lib/docker/x: no space left on device", "docker: the engine's disk is full: docker system df shows"),
        ("something new", "docker: The engine said: something new"),
    ],
)
def test_a_refusal_is_told_with_what_the_engine_said(seen: str, said: str):
    with pytest.raises(PlaceFailure) as refused, explained():
        raise APIError("500 Server Error", explanation=seen)
    assert str(refused.value).startswith(said)
    assert seen in str(refused.value)


def test_a_container_is_abandoned_once_it_has_ended_a_while_ago():
    def state(status: str, finished: str) -> dict[str, str]:
        return {"Status": status, "FinishedAt": finished}

    assert abandoned(state("exited", "2026-01-01T11:50:00.123456789Z"), NOW)
    assert not abandoned(state("exited", "2026-01-01T11:59:55.123456789Z"), NOW)
    assert not abandoned(state("running", "0001-01-01T00:00:00Z"), NOW)


def test_exit_codes_above_128_are_signals_if_there_is_one():
    assert [status_of(code) for code in (0, 1, 130, 137, 255)] == [0, 1, -2, -9, 255]


def test_the_environment_chooses_docker_with_its_settings(tmp_path: Path):
    file = tmp_path / "place.yaml"
    file.write_text("kind: docker\nimage: mine:1\ngpus: 2\nvolumes: {state: /var/lib/state}\n", encoding="utf-8")
    place = chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": str(file)}).place
    assert place == Docker(image="mine:1", gpus=2, volumes={"state": "/var/lib/state"})


def test_the_configuration_of_one_run_chooses_docker():
    seen: list[object] = []

    @dg.asset
    def trained(compute: PlacedCompute) -> None:
        seen.append(compute.place)

    config = {"resources": {"compute": {"config": {"place": {"docker": {"image": "mine:1", "volumes": {"state": "/data"}}}}}}}
    assert dg.materialize([trained], resources={"compute": PlacedCompute()}, run_config=config).success
    assert seen == [Docker(image="mine:1", volumes={"state": "/data"})]
