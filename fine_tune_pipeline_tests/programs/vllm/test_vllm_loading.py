"""A version at vLLM: at every replica or at none, under a name and from a path that were never used, and there again after a restart."""

import json
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.programs.vllm.adapters import NotLoaded
from fine_tune_pipeline.programs.vllm.replica import ReplicaDown
from fine_tune_pipeline.programs.vllm.serving import STATE_FILE
from fine_tune_pipeline_tests.programs.vllm.fake_vllm import WAIT, Fault
from fine_tune_pipeline_tests.programs.vllm.world import Rig
from fine_tune_pipeline_tests.served import NEW_TOKENS

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def load(models: Any, rig: Rig, version: int = 1) -> None:
    models.load(f"bank-v{version}", rig.weights.adapters[version - 1]).result(WAIT)


def test_every_replica_loads_it_once_by_name_and_path_and_never_in_place(two: Rig):
    with two.models() as models:
        load(models, two)
        load(models, two)
    (folder,) = two.published()
    assert folder.startswith("bank-v1-")
    for server in two.servers:
        assert server.requests(LOAD) == [{"lora_name": "bank-v1", "lora_path": f"{two.folder}/shared/{folder}", "load_inplace": False}]
        assert server.adapters == {"bank-v1": f"{two.folder}/shared/{folder}"}


def test_the_path_is_the_one_that_the_servers_see(two: Rig):
    for server in two.servers:
        server.mount = ("/adapters", f"{two.folder}/shared")
    with two.models(seen_as="/adapters/") as models:
        load(models, two)
    assert {server.adapters["bank-v1"] for server in two.servers} == {f"/adapters/{two.published()[0]}"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("rank", "rank 4 is greater than max_lora_rank 1"),
        ("not found", "No adapter found"),
        ("500", "HTTP 500: internal error"),
        ("down", "nobody answers"),
        ("no runtime loading", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or write deployment.vllm.mode: static"),
        ("wrong key", "HTTP 401"),
        ("other base", "serves no base model 'base'"),
    ],
)
def test_when_one_replica_does_not_load_it_none_has_it_and_the_error_names_that_replica(two: Rig, fault: str, said: str):
    with two.models() as models:
        good, bad = two.servers
        if fault == "rank":
            bad.max_lora_rank = 1
        if fault == "not found":
            bad.mount = (f"{two.folder}/shared", "/nowhere")
        if fault == "500":
            bad.faults = [Fault(LOAD, 500)]
        if fault == "down":
            bad.faults = [Fault("/v1/models", 0, times=9), Fault(LOAD, 0, times=9)]
        if fault == "no runtime loading":
            bad.runtime = False
        if fault == "wrong key":
            bad.key = "another"
        if fault == "other base":
            bad.base = "gemma"
        with pytest.raises(NotLoaded, match=f"{bad.url}.*{said}"):
            load(models, two)
        assert good.adapters == bad.adapters == {}
        with pytest.raises(LookupError):
            models.generate("bank-v1", two.weights.prompts, NEW_TOKENS)


def test_a_name_that_a_replica_has_from_elsewhere_is_not_taken(one: Rig):
    with one.models() as models:
        one.servers[0].adapters["bank-v1"] = "/adapters/of/somebody"
        with pytest.raises(NotLoaded, match=r"bank-v1 is loaded from /adapters/of/somebody, want .*never used twice"):
            load(models, one)
    assert one.servers[0].adapters == {"bank-v1": "/adapters/of/somebody"}


def test_without_leave_to_load_the_version_must_be_named_at_the_servers_start_and_the_error_says_how(two: Rig):
    for server in two.servers:
        server.runtime = False
    with two.models(mode="static") as models:
        with pytest.raises(
            NotLoaded, match=f"{two.servers[0].url}: has no bank-v1; start it with --lora-modules bank-v1={two.folder}/shared/b"
        ):
            load(models, two)
        (folder,) = two.published()
        for server in two.servers:
            server.adapters["bank-v1"] = f"{two.folder}/shared/{folder}/"
            server.engine.add(f"{two.folder}/shared/{folder}/")
        load(models, two)
        answers = [future.result(WAIT).text for future in models.generate("bank-v1", two.weights.prompts, NEW_TOKENS)]
        assert answers == [answer.text for answer in two.weights.answers["bank-v1"]]
        models.unload("bank-v1")
    assert {path for server in two.servers for path, _ in server.asked} == {"/v1/models", "/v1/completions"}


def test_a_version_that_was_let_go_answers_those_who_name_it_until_the_next_one_is_loaded(one: Rig):
    with one.models() as models:
        load(models, one, 1)
        models.unload("bank-v1")
        assert [future.result(WAIT).text for future in models.generate("bank-v1", one.weights.prompts[:1], NEW_TOKENS)]
        load(models, one, 2)
        assert list(one.servers[0].adapters) == ["bank-v2"]
        with pytest.raises(LookupError):
            models.generate("bank-v1", one.weights.prompts, NEW_TOKENS)
    assert one.servers[0].requests(UNLOAD) == [{"lora_name": "bank-v1"}]


def test_one_that_is_offered_again_stays(one: Rig):
    with one.models() as models:
        load(models, one, 1)
        models.unload("bank-v1")
        load(models, one, 1)
        load(models, one, 2)
    assert list(one.servers[0].adapters) == ["bank-v1", "bank-v2"]


def test_started_again_the_endpoint_serves_where_a_replica_is_up_and_the_other_gets_the_version_when_it_is_back(two: Rig):
    with two.models() as models:
        load(models, two)
    assert list(json.loads((two.folder / "state" / STATE_FILE).read_text(encoding="utf-8"))["paths"]) == ["bank-v1"]
    two.servers[1].restart()
    two.servers[1].faults = [Fault("/v1/models", 0)]
    with two.models() as models:
        # Whichever was asked first at the start, the load below meets the fault at the second one.
        two.servers[1].faults = [Fault("/v1/models", 0)]
        load(models, two)
        for _ in range(4):
            answers = [future.result(WAIT).text for future in models.generate("bank-v1", two.weights.prompts, NEW_TOKENS)]
            assert answers == [answer.text for answer in two.weights.answers["bank-v1"]]
    assert list(two.servers[1].adapters) == ["bank-v1"]


def test_started_again_without_any_server_it_fails_and_forgets_nothing(one: Rig):
    with one.models() as models:
        load(models, one)
        one.servers[0].faults = [Fault("/v1/models", 0, times=9)]
        with pytest.raises(ReplicaDown):
            load(models, one)
    assert list(json.loads((one.folder / "state" / STATE_FILE).read_text(encoding="utf-8"))["paths"]) == ["bank-v1"]


def test_what_the_endpoint_copied_is_all_that_vllm_reads(one: Rig):
    with one.models() as models:
        load(models, one)
    (folder,) = one.published()
    found = {path.name for path in (one.folder / "shared" / folder).iterdir()}
    assert found == {"adapter_config.json", "adapter_model.safetensors", "SHA256SUMS"}
    assert Path(one.servers[0].adapters["bank-v1"]) == one.folder / "shared" / folder
