"""A version goes live where vLLM computes the answers: a real endpoint in front of servers that really compute."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.guide.deployment.assets import endpoint, registered_model
from fine_tune_pipeline.guide.deployment.vllm import base_problem
from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.resources.endpoint_client import EndpointError
from fine_tune_pipeline.spec.deployment import DeploymentSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline_tests.guide.deployment.test_assets import PASSED, House, checks, house, shown  # noqa: F401
from fine_tune_pipeline_tests.guide.deployment.world import USE_CASE, prompts, use_case
from fine_tune_pipeline_tests.programs.vllm.fake_vllm import KEY, VARIABLE, Engine, Fault, Vllm, running
from fine_tune_pipeline_tests.tiny import tiny_model
from fine_tune_pipeline_tests.waiting import wait_until


@pytest.fixture
def servers(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Vllm]]:  # noqa: F811
    monkeypatch.setenv(VARIABLE, KEY)
    engine = Engine(house.choose_base())
    made = [Vllm(engine, mount=("/adapters", str(house.folder / "shared"))) for _ in range(2)]
    with running(made[0]), running(made[1]):
        yield made


def with_vllm(house: House, servers: list[Vllm], **changes: Any) -> UseCaseSpec:  # noqa: F811
    vllm = {
        "urls": [server.url for server in servers],
        "api_key_variable": VARIABLE,
        "adapters_at": str(house.folder / "shared"),
        "seen_as": "/adapters",
        **changes,
    }
    said = {"port": 0, "parity_prompts": 6, "serving": "vllm", "vllm": vllm}
    return use_case().model_copy(update={"deployment": DeploymentSpec.model_validate(said)})


def test_the_life_of_an_endpoint_whose_answers_vllm_computes(house: House, servers: list[Vllm]):  # noqa: F811
    spec = with_vllm(house, servers)
    room = [registered_model(spec), endpoint(spec)]
    first = house.train(1, base=house.choose_base())
    deployed = house.run("registered_model", "endpoint", room=room)
    assert deployed.success
    assert checks(deployed) == PASSED
    assert (shown(deployed, "endpoint")["champion"], shown(deployed, "endpoint")["endpoint_equals_evaluation"]) == ("bank-v1", 1.0)
    answers = house.ask(prompts(300, 30))
    assert [answer.text for answer in answers] == first
    assert {answer.model for answer in answers} == {"bank-v1"}

    _a_version_that_one_server_cannot_take_does_not_go_live(house, servers, room)
    _a_new_version_takes_over_and_a_server_that_was_started_anew_gets_it_back(house, servers, room)
    _what_fails_upstream_is_an_error_in_openais_shape_and_in_the_log(house, servers)


def _a_version_that_one_server_cannot_take_does_not_go_live(house: House, servers: list[Vllm], room: list[Any]) -> None:  # noqa: F811
    servers[1].max_lora_rank = 1
    house.train(2, base=house.choose_base())
    refused = house.run("registered_model", "endpoint", room=room)
    assert {name: checks(refused)[name] for name in ("loads", "parity", "healthy")} == {"loads": False, "parity": False, "healthy": True}
    problem = shown(refused, "endpoint")["problem"]
    assert servers[1].url in problem
    assert "greater than max_lora_rank 1" in problem
    assert [list(server.adapters) for server in servers] == [["bank-v1"], ["bank-v1"]]
    assert {answer.model for answer in house.ask(prompts(300, 4))} == {"bank-v1"}


def _a_new_version_takes_over_and_a_server_that_was_started_anew_gets_it_back(
    house: House,  # noqa: F811
    servers: list[Vllm],
    room: list[Any],
) -> None:
    servers[1].max_lora_rank = 16
    second = house.train(2, base=house.choose_base())
    deployed = house.run("endpoint", room=room)
    assert checks(deployed) == PASSED
    servers[0].restart()
    answers = house.ask(prompts(300, 30))
    assert [answer.text for answer in answers] == second
    assert {answer.model for answer in answers} == {"bank-v2"}


def _what_fails_upstream_is_an_error_in_openais_shape_and_in_the_log(house: House, servers: list[Vllm]) -> None:  # noqa: F811
    for server in servers:
        server.faults = [Fault("/v1/completions", 503, times=9)]
    place = house.serving.endpoint(USE_CASE)
    with pytest.raises(EndpointError, match="the model server does not answer") as raised:
        place.client().answer("hello")
    assert raised.value.status == 502
    wait_until(lambda: place.traffic_log.window(1)[0].request.status == 502)
    assert "HTTP 503" in place.status().log.read_text(encoding="utf-8")
    assert place.stop()


def test_what_does_not_fit_is_told_before_anything_is_started(house: House, servers: list[Vllm], monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    spec = with_vllm(house, servers, max_lora_rank=1)
    house.train(1, base=house.choose_base())
    servers[0].base = "gemma"
    refused = house.run("registered_model", "endpoint", room=[registered_model(spec), endpoint(spec)])
    problem = shown(refused, "endpoint")["problem"]
    assert "it has rank 4, at most 1 is taken" in problem
    assert f"{servers[0].url}: serves no base model 'base', but gemma" in problem
    assert house.serving.endpoint(USE_CASE).processes() == []
    monkeypatch.delenv(VARIABLE)
    again = house.run("endpoint", room=[registered_model(spec), endpoint(spec)])
    assert f"{VARIABLE} is empty" in shown(again, "endpoint")["problem"]


def test_another_base_model_is_seen_where_its_folder_can_be(tmp_path: Path):
    base = tiny_model(tmp_path / "base")
    assert base_problem(str(base), weights_sha256(base)) is None
    assert "the version was made for 000000000000" in (base_problem(str(base), "0" * 64) or "")
    assert base_problem("/models/inside/the/container", "0" * 64) is None
    assert base_problem("organisation/name", "0" * 64) is None
