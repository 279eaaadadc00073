"""The shipped files that carry endpoint and vLLM: their numbers fit each other, and nothing is shown that must not be."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import fine_tune_pipeline
from fine_tune_pipeline import cli
from fine_tune_pipeline.places import SERVING_URL_VARIABLE
from fine_tune_pipeline.programs.serving.contract import ADMIN_KEY_VARIABLE, KEY_VARIABLE
from fine_tune_pipeline.programs.supervise import DEFAULT_PATIENCE
from fine_tune_pipeline.resources.endpoint import Endpoint
from fine_tune_pipeline.spec.vllm import VllmSpec

DOCKER = Path(fine_tune_pipeline.__file__).parents[1] / "docker"
VLLM = VllmSpec(urls=["http://vllm:8000"], adapters_at="/adapters")


def objects(name: str) -> dict[str, Any]:
    """Objects of a file by kind."""
    documents = yaml.safe_load_all((DOCKER / "kubernetes" / name).read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


def pod(name: str) -> dict[str, Any]:
    return objects(name)["Deployment"]["spec"]["template"]["spec"]


def container(name: str) -> dict[str, Any]:
    return pod(name)["containers"][0]


def variables(name: str) -> dict[str, Any]:
    return {each["name"]: each.get("value") or each["valueFrom"]["secretKeyRef"] for each in container(name)["env"]}


def stop_seconds(name: str) -> int:
    return int(container(name)["lifecycle"]["preStop"]["exec"]["command"][1])


def test_vllm_is_started_as_the_use_case_takes_it_by_default():
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in container("vllm.yaml")["args"] if "=" in flag)
    assert (flags["served-model-name"], int(flags["max-lora-rank"])) == (VLLM.base, VLLM.max_lora_rank)
    assert int(flags["max-cpu-loras"]) > int(flags["max-loras"])
    assert flags["generation-config"] == "vllm"
    assert VLLM.api_key_variable in variables("vllm.yaml")
    assert variables("vllm.yaml")["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


def test_while_vllm_is_replaced_all_replicas_answer_and_none_is_cut_off():
    deployment = objects("vllm.yaml")["Deployment"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]["rollingUpdate"]["maxUnavailable"]) == (2, 0)
    (timeout,) = [flag for flag in container("vllm.yaml")["args"] if flag.startswith("--shutdown-timeout=")]
    assert pod("vllm.yaml")["terminationGracePeriodSeconds"] >= stop_seconds("vllm.yaml") + int(timeout.split("=")[1])


def test_every_pod_of_vllm_is_found_by_name_and_only_endpoint_and_dagster_may_speak_to_it():
    found = objects("vllm.yaml")
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert (found["Service"]["spec"]["clusterIP"], found["Service"]["spec"]["selector"]) == ("None", labels)
    policy = found["NetworkPolicy"]["spec"]
    allowed = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in policy["ingress"][0]["from"]]
    assert (policy["podSelector"]["matchLabels"], allowed) == (labels, ["fine-tune-pipeline-endpoint", "dagster"])
    endpoint = objects("endpoint.yaml")["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert endpoint["app.kubernetes.io/name"] in allowed
    assert "Ingress" not in found


def test_the_program_of_the_readiness_probe_can_be_read():
    *_, program = container("vllm.yaml")["readinessProbe"]["exec"]["command"]
    compile(program, "probe", "exec")
    assert '"max_tokens": 1' in program


def test_the_endpoints_pod_has_one_writer_and_the_time_that_its_supervisor_takes():
    deployment = objects("endpoint.yaml")["Deployment"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    needed = stop_seconds("endpoint.yaml") + max(DEFAULT_PATIENCE.stop_seconds, Endpoint(use_case="x", folder=Path()).stop_seconds)
    assert pod("endpoint.yaml")["terminationGracePeriodSeconds"] >= needed
    assert {KEY_VARIABLE, ADMIN_KEY_VARIABLE, VLLM.api_key_variable} <= set(variables("endpoint.yaml"))


def test_the_world_sees_the_routes_for_those_who_ask_and_no_others():
    rules = objects("endpoint.yaml")["Ingress"]["spec"]["rules"]
    assert [path["path"] for rule in rules for path in rule["http"]["paths"]] == ["/v1"]


@pytest.mark.parametrize("command", ["kubernetes", "compose"])
def test_the_command_of_the_container_is_one_of_ours(command: str):
    compose = yaml.safe_load((DOCKER / "compose.endpoint.yaml").read_text(encoding="utf-8"))["services"]["support-triage-endpoint"]
    program, *arguments = container("endpoint.yaml")["command"] if command == "kubernetes" else compose["command"]
    parsed = cli._parser().parse_args(arguments)
    assert (program, parsed.run.__name__, parsed.use_case) == ("fine-tune-pipeline", "attend", "support_triage")


def test_the_container_of_compose_is_found_by_the_address_that_dagster_is_told():
    services = yaml.safe_load((DOCKER / "compose.endpoint.yaml").read_text(encoding="utf-8"))["services"]
    whole = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    url = services["code"]["environment"][SERVING_URL_VARIABLE].format(name="support-triage")
    assert url == "http://support-triage-endpoint:8100"
    endpoint = services["support-triage-endpoint"]
    assert endpoint["volumes"] == whole["services"]["code"]["volumes"]
    assert endpoint["image"] == whole["services"]["code"]["image"]


RAY = DOCKER / "ray_serve" / "vllm.yaml"


def carried_by_ray() -> VllmSpec:
    """The section of a use case that docs/vllm.md shows for Ray Serve."""
    page = (DOCKER.parent / "docs" / "vllm.md").read_text(encoding="utf-8")
    _, example = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return VllmSpec.model_validate(yaml.safe_load(example)["vllm"])


def test_ray_serve_is_started_as_the_use_case_takes_it():
    spec = carried_by_ray()
    (application,) = yaml.safe_load(RAY.read_text(encoding="utf-8"))["applications"]
    (config,) = application["args"]["llm_configs"]
    engine, lora = config["engine_kwargs"], config["lora_config"]
    assert (spec.mode, spec.api_key_variable) == ("static", None)
    assert spec.model_name.format(base=spec.base, folder="bank-v7-5f0c") == f"{config['model_loading_config']['model_id']}:bank-v7-5f0c"
    assert ":" not in spec.base
    assert (lora["dynamic_lora_loading_path"], engine["max_lora_rank"]) == (spec.adapters_at, spec.max_lora_rank)
    assert engine["max_cpu_loras"] > engine["max_loras"] == lora["max_num_adapters_per_replica"]
    assert engine["generation_config"] == "vllm"
