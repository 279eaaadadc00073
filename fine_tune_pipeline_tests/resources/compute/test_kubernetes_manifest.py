"""The Job that is sent to Kubernetes, by the published schemas and by what it must and must not hold."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster_pipes import encode_param
from pydantic import ValidationError

import fine_tune_pipeline
from fine_tune_pipeline.programs.requests import EmbedRequest, Request
from fine_tune_pipeline.resources.compute.choice import UnknownPlace, chosen_compute
from fine_tune_pipeline.resources.compute.inventory import Device
from fine_tune_pipeline.resources.compute.job import Job
from fine_tune_pipeline.resources.compute.kubernetes import Kubernetes
from fine_tune_pipeline.resources.compute.kubernetes_manifest import NotShared, job_manifest
from fine_tune_pipeline.resources.compute.placed import PlacedCompute

EXAMPLES = Path(fine_tune_pipeline.__file__).parents[1] / "docker" / "kubernetes"
STORE = "/var/lib/fine_tune_pipeline"
LEAST: dict[str, Any] = {"image": "pipeline:1", "volumes": {"store": STORE}}
ON_GPU = {**LEAST, "gpus": 2, "gpu_name": "L4", "launcher": "accelerate"}
EVERYTHING = {
    **ON_GPU, "namespace": "training", "pull": "always", "image_pull_secrets": ["registry"], "python": "/opt/venv/bin/python",
    "cpus": 0.5, "memory_gib": 1.5, "gpu_resource": "amd.com/gpu", "shm_gib": 0.5, "scratch_gib": 20, "timeout_seconds": 3600,
    "volumes": {"store/of/team": STORE, "models": "/models"}, "secrets": {"HF_TOKEN": "hub/token"}, "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}, {}], "priority_class": "batch",
    "service_account": "trainer", "labels": {"kueue.x-k8s.io/queue-name": "team"}, "annotations": {"karpenter.sh/do-not-disrupt": "true"},
}  # fmt: skip


class OnDevice(Request):
    """A program that computes on an accelerator, in as many processes as it is given."""

    module = "fine_tune_pipeline.programs.on_device"
    parallel = True
    device: str = "cuda"


def job(request: Request | None = None, **environment: str) -> Job:
    request = request or EmbedRequest(output=f"{STORE}/output", texts=f"{STORE}/texts.jsonl")
    return Job(request=request, folder=Path(request.output) / ".exchange", environment=environment)


def manifest(settings: dict[str, Any], of: Job | None = None) -> dict[str, Any]:
    return job_manifest(Kubernetes(**settings), of or job(), attempt="1")


def pod(made: dict[str, Any]) -> dict[str, Any]:
    return made["spec"]["template"]["spec"]


def container(made: dict[str, Any]) -> dict[str, Any]:
    return pod(made)["containers"][0]


@pytest.mark.parametrize("version", ["1.29", "1.31", "1.34", "1.37"])
@pytest.mark.parametrize("settings", [LEAST, ON_GPU, EVERYTHING], ids=["least", "on_gpu", "everything"])
def test_the_job_is_as_the_published_schema_wants_it(settings: dict[str, Any], version: str):
    made = manifest(settings, job(OnDevice(output=f"{STORE}/output"), ONE="1"))
    assert kubernetes_validate.validate(made, version, strict=True) == version


def test_the_strict_schema_would_see_a_word_that_kubernetes_does_not_know():
    made = manifest(LEAST)
    pod(made)["nodeSelectors"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="nodeSelectors"):
        kubernetes_validate.validate(made, "1.37", strict=True)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_files_are_what_they_say(path: Path):
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    if path.stem == "compute":
        place = chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": str(path)}).place
        assert isinstance(place, Kubernetes)
        kubernetes_validate.validate(job_manifest(place, job(), attempt="1"), "1.37", strict=True)
    else:
        assert [kubernetes_validate.validate(document, "1.37", strict=True) for document in documents] == ["1.37"] * len(documents)


def test_the_settings_of_the_page_about_it_are_right():
    page = (EXAMPLES.parents[1] / "docs" / "compute_kubernetes.md").read_text(encoding="utf-8")
    settings = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert Kubernetes(**settings).inventory().devices[0].memory_bytes == 24 << 30


def test_a_pod_runs_once_without_rights_and_writes_nowhere_but_in_its_folders():
    made = manifest(LEAST)
    assert (made["spec"]["backoffLimit"], pod(made)["restartPolicy"]) == (0, "Never")
    assert pod(made)["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert container(made)["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod(made)["automountServiceAccountToken"] is False
    volumes = {volume["name"]: volume for volume in pod(made)["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container(made)["volumeMounts"]}
    assert mounts == {
        "/dev/shm": {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1024Mi"}},
        "/tmp": {"name": "scratch", "emptyDir": {}},
        STORE: {"name": "claim-0", "persistentVolumeClaim": {"claimName": "store"}},
    }


def test_secrets_are_named_and_never_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret")
    place = Kubernetes(**LEAST, secrets={"HF_TOKEN": "hub/token"})
    told = Job(request=job().request, folder=job().folder, environment={"PLAIN": "1"}, handed_on=place.handed_on())
    made = job_manifest(place, told, attempt="1")
    assert "a_secret" not in json.dumps(made)
    assert "a-secret" not in json.dumps(made)
    assert container(made)["env"] == [
        {"name": "HOME", "value": "/tmp"},
        {"name": "LOGNAME", "value": "program"},
        {"name": "OMP_NUM_THREADS", "value": "4"},
        {"name": "PLAIN", "value": "1"},
        {"name": "USER", "value": "program"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ]


def test_variables_that_are_set_here_and_not_handed_on_are_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret")
    place = Kubernetes(**LEAST, secrets={"HF_TOKEN": "hub/token"}, hand_on=["HF_TOKEN", "OPENAI_API_KEY"])
    with caplog.at_level("WARNING"):
        assert place.handed_on() == ("HF_TOKEN",)
    assert "Kubernetes: OPENAI_API_KEY: set here, and not handed on" in caplog.text
    assert "a-secret" not in caplog.text


def test_accelerators_are_for_programs_that_compute_on_one():
    on_gpu, on_cpu = manifest(ON_GPU, job(OnDevice(output=f"{STORE}/output"))), manifest(ON_GPU)
    amounts = {"cpu": "4", "memory": "16384Mi"}
    assert container(on_cpu)["resources"] == {"requests": amounts, "limits": amounts}
    assert container(on_gpu)["resources"]["limits"] == {**amounts, "nvidia.com/gpu": "2"}
    assert container(on_gpu)["command"][:4] == ["python", "-m", "fine_tune_pipeline.programs.launch", "accelerate.commands.launch"]
    assert {"--multi_gpu", "--num_processes=2"} <= set(container(on_gpu)["command"])
    assert container(on_cpu)["command"] == [
        "python", "-m", "fine_tune_pipeline.programs.embed", "--request", f"{STORE}/output/.exchange/request.json",
    ]  # fmt: skip


def test_the_time_limit_counts_from_the_start_of_the_pod_and_the_job_has_one_for_lost_nodes():
    made = manifest({**LEAST, "timeout_seconds": 60, "start_seconds": 900})
    assert (pod(made)["activeDeadlineSeconds"], made["spec"]["activeDeadlineSeconds"]) == (60, 960)
    assert "activeDeadlineSeconds" not in manifest(LEAST)["spec"]


def test_a_name_is_the_same_for_each_try_and_another_for_other_work_or_storage():
    def name(settings: dict[str, Any], attempt: str, of: Job) -> str:
        return str(job_manifest(Kubernetes(**settings), of, attempt=attempt)["metadata"]["name"])

    other = job(EmbedRequest(output=f"{STORE}/output", texts=f"{STORE}/other.jsonl"))
    elsewhere = {**LEAST, "volumes": {"another": STORE}}
    names = {name(LEAST, "1", job()), name(LEAST, "2", job()), name(LEAST, "1", other), name(elsewhere, "1", job())}
    assert len(names) == 3
    assert all(len(one) <= 63 and one.startswith("embed-") for one in names)


def test_a_job_says_whose_it_is():
    context = {"asset_keys": ["support triage/adapter"], "run_id": "0b8f"}
    made = manifest({**LEAST, "labels": {"team": "a"}}, job(DAGSTER_PIPES_CONTEXT=encode_param({"data": context})))
    labels = {
        "team": "a", "app.kubernetes.io/managed-by": "fine-tune-pipeline", "app.kubernetes.io/component": "embed",
        "fine-tune-pipeline/use-case": "support-triage", "fine-tune-pipeline/asset": "adapter", "dagster/run-id": "0b8f",
    }  # fmt: skip
    assert made["metadata"]["labels"] == made["spec"]["template"]["metadata"]["labels"] == labels
    assert set(manifest(LEAST)["metadata"]["annotations"]) == {"fine-tune-pipeline/request-sha256", "fine-tune-pipeline/try"}


@pytest.mark.parametrize(
    ("texts", "volumes"),
    [
        ("/home/ann/texts.jsonl", {"store": STORE}),
        (f"{STORE}/../ann/texts.jsonl", {"store": STORE}),
        ("texts.jsonl", {"store": STORE}),
        (f"{STORE}/texts.jsonl", {"store": "/mnt"}),
        (f"{STORE}/texts.jsonl", {}),
    ],
)
def test_a_path_that_pods_do_not_see_is_refused(texts: str, volumes: dict[str, str]):
    request = EmbedRequest(output=f"{STORE}/output", texts=texts)
    with pytest.raises(NotShared, match=r"compute.place.volumes: .*not on storage that pods share.*FINE_TUNE_PIPELINE_HOME"):
        manifest({**LEAST, "volumes": volumes}, job(request))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpus": 1}, "with gpus: 1 say what one is"),
        ({"secrets": {"HF_TOKEN": "hf_a_secret_pasted_here"}}, "secrets.HF_TOKEN: .*want the name of a Secret and its key"),
        ({"volumes": {"store": "data"}}, "want a claim and an absolute path"),
        ({"volumes": {"Store!": "/data"}}, "want a claim and an absolute path"),
        ({"memory_gib": -1}, "greater than 0"),
        ({"namespace": "My Namespace"}, "pattern"),
        ({"tolerations": [{"effect": "Never"}]}, "pattern"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        Kubernetes(**{**LEAST, **wrong})


def test_an_environment_that_only_names_the_kind_is_told_what_is_missing():
    with pytest.raises(UnknownPlace, match="image"):
        chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": "kubernetes"})


def test_the_inventory_is_as_configured():
    with_gpus, without = Kubernetes(**ON_GPU).inventory(), Kubernetes(**LEAST, cpu_bfloat16=True).inventory()
    assert with_gpus.devices == (Device(kind="cuda", name="L4", memory_bytes=24 << 30, bfloat16=True),) * 2
    assert (with_gpus.place, with_gpus.cpu_cores, with_gpus.memory_bytes) == ("kubernetes", 4, 16 << 30)
    old = Kubernetes(**{**ON_GPU, "gpu_name": "Titan", "gpu_memory_gib": 12, "gpu_bfloat16": False}).inventory()
    assert old.devices[0] == Device(kind="cuda", name="Titan", memory_bytes=12 << 30, bfloat16=False)
    assert without.devices == (Device(kind="cpu", name="CPU", memory_bytes=16 << 30, bfloat16=True),)


def test_one_run_can_choose_the_cluster():
    seen = []

    @dg.asset
    def where(compute: PlacedCompute) -> None:
        seen.append(compute.place)

    settings = {**EVERYTHING, "tolerations": [{"key": "a"}]}
    config = {"resources": {"compute": {"config": {"place": {"kubernetes": settings}}}}}
    assert dg.materialize([where], resources={"compute": PlacedCompute()}, run_config=config).success
    assert seen == [Kubernetes(**settings)]
