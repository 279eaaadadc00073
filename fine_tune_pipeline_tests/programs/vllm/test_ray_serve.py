"""Ray Serve LLM carries vLLM: versions are folders of a bucket, asked for as `<base>:<folder>`; nothing is loaded by us."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.programs.serving.wishes import Wanted, Wish
from fine_tune_pipeline.programs.vllm.adapters import NotLoaded
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream
from fine_tune_pipeline_tests.programs.vllm.fake_ray_serve import RayServe
from fine_tune_pipeline_tests.programs.vllm.fake_vllm import WAIT, running
from fine_tune_pipeline_tests.programs.vllm.world import BASE, Ear, Rig, Weights
from fine_tune_pipeline_tests.served import NEW_TOKENS

NAMES = {"mode": "static", "model_name": "{base}:{folder}", "api_key_variable": None}


@pytest.fixture
def ray(weights: Weights, tmp_path: Path) -> Iterator[Rig]:
    with running(RayServe(weights.engine, bucket=tmp_path / "shared")) as server:
        yield Rig(weights, [server], tmp_path)


def texts(models: Any, name: str, ray: Rig) -> list[str]:
    return [future.result(WAIT).text for future in models.generate(name, ray.weights.prompts, NEW_TOKENS)]


def test_a_version_is_there_as_soon_as_its_folder_lies_in_the_bucket_and_answers_as_evaluated(ray: Rig):
    with ray.models(**NAMES) as models:
        for version, folder in enumerate(ray.weights.adapters, start=1):
            models.load(f"bank-v{version}", folder).result(WAIT)
        found = {name: texts(models, name, ray) for name in (BASE, "bank-v1", "bank-v2")}
    assert found == {name: [answer.text for answer in wanted] for name, wanted in ray.weights.answers.items()}
    asked = {body["model"] for body in ray.servers[0].requests("/v1/completions")}
    assert asked == {"base", *(f"base:{folder}" for folder in ray.published())}
    assert {path for path, _ in ray.servers[0].asked} == {"/v1/models", "/v1/completions"}


def test_a_server_that_was_started_anew_answers_and_so_does_an_endpoint(ray: Rig):
    with ray.models(**NAMES) as models:
        models.load("bank-v1", ray.weights.adapters[0]).result(WAIT)
        ray.servers[0].restart()
        assert texts(models, "bank-v1", ray) == [answer.text for answer in ray.weights.answers["bank-v1"]]
    with ray.models(**NAMES) as models:
        assert texts(models, "bank-v1", ray) == [answer.text for answer in ray.weights.answers["bank-v1"]]


def test_a_version_that_was_let_go_is_asked_for_no_more_and_its_folder_stays(ray: Rig):
    with ray.models(**NAMES) as models:
        models.load("bank-v1", ray.weights.adapters[0]).result(WAIT)
        models.unload("bank-v1")
        models.load("bank-v2", ray.weights.adapters[1]).result(WAIT)
        with pytest.raises(LookupError):
            models.generate("bank-v1", ray.weights.prompts, NEW_TOKENS)
    assert len(ray.published()) == 2


def test_streams_come_in_pieces(ray: Rig):
    ear = Ear(streams=True)
    with ray.models(**NAMES) as models:
        models.load("bank-v1", ray.weights.adapters[0]).result(WAIT)
        found = models.generate("bank-v1", [Wanted(ray.weights.prompts[0], 24, Wish(), ear)], NEW_TOKENS)[0].result(WAIT)
    assert "".join(ear.texts) == found.text
    assert len(ear.texts) > 2


def test_where_the_servers_bucket_is_another_the_error_says_which_it_should_be(ray: Rig, tmp_path: Path):
    ray.servers[0].bucket = tmp_path / "elsewhere"  # type: ignore[attr-defined]
    with ray.models(**NAMES) as models, pytest.raises(NotLoaded) as raised:
        models.load("bank-v1", ray.weights.adapters[0]).result(WAIT)
    (folder,) = ray.published()
    assert f"{ray.servers[0].url}: has no base:{folder}; the adapter lies in {tmp_path}/shared/{folder}" in str(raised.value)
    assert "lora_config.dynamic_lora_loading_path" in str(raised.value)


def test_how_long_prompt_and_answer_may_be_is_read_from_the_cards_metadata(ray: Rig):
    ray.servers[0].max_model_len = 256
    with ray.models(**NAMES) as models:
        assert models.context_tokens == 256


@pytest.mark.parametrize(
    ("model_name", "wanted"),
    [
        ("{version}", "bank-v7"),
        ("{base}:{folder}", "gemma:bank-v7-5f0c"),
        ("{folder}", "bank-v7-5f0c"),
        ("lora/{version}", "lora/bank-v7"),
    ],
)
def test_the_name_of_a_version_there(model_name: str, wanted: str):
    upstream = VllmUpstream(urls=("http://a",), base="gemma", model_name=model_name, adapters_at="/x", seen_as="/x", max_lora_rank=16)
    assert upstream.named("bank-v7", path="s3://bucket/adapters/bank-v7-5f0c/") == wanted
