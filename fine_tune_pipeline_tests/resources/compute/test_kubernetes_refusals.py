"""What goes wrong between us and a cluster before a program runs: each with what was seen and what to do, and nothing left."""

import json
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from fine_tune_pipeline.resources.compute.job import Cause, PlaceFailure
from fine_tune_pipeline.resources.compute.kubernetes_cluster import FIRST_TRIES, Patience
from fine_tune_pipeline.resources.compute.kubernetes_refusals import (
    InvalidManifest,
    NeverStarted,
    NoNamespace,
    NotAllowed,
    NotAuthenticated,
    NotConfigured,
    QuotaExceeded,
    Unreachable,
)
from fine_tune_pipeline_tests.resources.compute.fake_kubernetes import FakeCluster, Fault, kube_config
from fine_tune_pipeline_tests.resources.compute.kubernetes_stand import KubernetesStand
from fine_tune_pipeline_tests.resources.compute.odd_program import OddRequest
from fine_tune_pipeline_tests.resources.compute.test_contract import executed, materialized
from fine_tune_pipeline_tests.resources.compute.test_kubernetes_manifest import EXAMPLES
from fine_tune_pipeline_tests.web import Quiet, web_server


@pytest.fixture
def stand() -> Iterator[KubernetesStand]:
    stand = KubernetesStand()
    yield stand
    stand.close()


@pytest.fixture
def cluster(stand: KubernetesStand) -> FakeCluster:
    return stand.cluster


def refused(stand: KubernetesStand, folder: Path, **settings: Any) -> PlaceFailure:
    """What the place says when it is asked to run a program; nothing is left of it."""
    with pytest.raises(PlaceFailure) as told:
        executed(stand.place(**settings), folder / "output", "answer")
    assert stand.left(folder) == []
    return told.value


def test_an_expired_token_says_whose(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.tokens.clear()
    error = refused(stand, tmp_path)
    assert isinstance(error, NotAuthenticated)
    assert "the token of context test" in str(error)
    assert "Log in to the cluster anew" in str(error)


def test_a_missing_verb_is_named(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.granted = {("list", "pods")}
    error = refused(stand, tmp_path)
    assert isinstance(error, NotAllowed)
    assert 'cannot create resource "jobs" in API group "batch" in the namespace "training"' in str(error)
    assert "role.yaml" in str(error)


def test_logs_that_may_not_be_read_end_the_program_at_once(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.granted = {("create", "jobs"), ("get", "jobs"), ("delete", "jobs"), ("list", "pods"), ("watch", "pods"), ("list", "events")}
    error = refused(stand, tmp_path)
    assert isinstance(error, NotAllowed)
    assert 'cannot get resource "pods/log"' in str(error)


def test_a_missing_namespace_is_named(stand: KubernetesStand, tmp_path: Path):
    error = refused(stand, tmp_path, namespace="trainign")
    assert isinstance(error, NoNamespace)
    assert 'compute.place.namespace: got trainign: namespaces "trainign" not found. Create it, or name another.' in str(error)


def test_a_quota_of_jobs_is_told(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.job_quota = "exceeded quota: jobs, requested: count/jobs.batch=1, used: count/jobs.batch=5, limited: count/jobs.batch=5"
    error = refused(stand, tmp_path)
    assert isinstance(error, QuotaExceeded)
    assert "used: count/jobs.batch=5" in str(error)
    assert "quota of namespace training" in str(error)


def test_what_kubernetes_does_not_take_is_named(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.faults.append(
        Fault("create", "jobs", status=422, message='Job.batch "x" is invalid: priorityClassName: Invalid value: "URGENT"')
    )
    error = refused(stand, tmp_path)
    assert isinstance(error, InvalidManifest)
    assert 'priorityClassName: Invalid value: "URGENT". Change what it names in compute.place.' in str(error)


@pytest.mark.parametrize(
    ("settings", "said", "todo"),
    [
        ({"image": "fine_tune_pipeline:2"}, "ImagePullBackOff: Back-off pulling image", "Correct compute.place.image"),
        ({"secrets": {"ODD_SECRET": "hub/token"}}, 'CreateContainerConfigError: secret "hub" not found', "Create the Secret and key"),
        ({"volumes": {"missing": "/tmp"}}, 'persistentvolumeclaim "missing" not found', "create the PersistentVolumeClaim"),
    ],
)
def test_a_pod_that_does_not_start_says_why(
    stand: KubernetesStand, tmp_path: Path, settings: dict[str, Any], said: str, todo: str, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO"):
        error = refused(stand, tmp_path, start_seconds=0.5, **settings)
    assert isinstance(error, NeverStarted)
    assert "of namespace training did not start within 0.5 s" in str(error)
    assert said in str(error)
    assert todo in str(error)
    assert said in caplog.text, "seen while it waits, too"


def test_an_image_name_that_no_waiting_corrects_is_told_at_once(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.images.add("fine tune")
    error = refused(stand, tmp_path, image="fine tune", start_seconds=3600)
    assert isinstance(error, NeverStarted)
    assert "InvalidImageName" in str(error)


def test_a_quota_of_memory_is_told_though_the_job_was_taken(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.pod_quota = "exceeded quota: compute, requested: limits.memory=512Mi, used: limits.memory=8Gi, limited: limits.memory=8Gi"
    error = refused(stand, tmp_path, start_seconds=0.5)
    assert isinstance(error, NeverStarted)
    assert "used: limits.memory=8Gi" in str(error)
    assert "free or raise the quota" in str(error)


def test_events_that_may_not_be_read_do_not_hide_the_rest(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.pod_quota = "exceeded quota: compute"
    cluster.granted = {("create", "jobs"), ("get", "jobs"), ("delete", "jobs"), ("list", "pods"), ("watch", "pods")}
    error = refused(stand, tmp_path, start_seconds=0.5)
    assert isinstance(error, NeverStarted)
    assert 'cannot list resource "events"' in str(error)


def test_a_queue_that_holds_the_job_back_is_told(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.suspended = True
    error = refused(stand, tmp_path, start_seconds=0.5)
    assert isinstance(error, NeverStarted)
    assert "Suspended: no room in the queue" in str(error)


def test_a_path_that_is_not_shared_is_refused_before_anything_is_made(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    error = refused(stand, tmp_path, volumes={"shared": "/mnt/elsewhere"})
    assert "not on storage that pods share with Dagster, which mounts /mnt/elsewhere" in str(error)
    assert not cluster.used


def test_a_secret_reaches_the_program_by_reference(
    stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cluster.secrets["hub", "token"] = "of the cluster"
    monkeypatch.setenv("ODD_SECRET", "of our environment")
    place = stand.place(secrets={"ODD_SECRET": "hub/token"}, hand_on=["ODD_SECRET"])
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialized(place, OddRequest(output=str(tmp_path), do="tell_secret"), instance)
    assert result.asset_materializations_for_node("odd")[0].metadata["said"].value == "of the cluster"
    assert "of our environment" not in json.dumps(cluster.created)


def test_dagster_shows_what_the_place_says(stand: KubernetesStand, tmp_path: Path):
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialized(stand.place(namespace="trainign"), OddRequest(output=str(tmp_path), do="answer"), instance)
    failed = result.failure_data_for_node("odd")
    assert failed is not None
    assert failed.user_failure_data is not None
    assert "compute.place.namespace: got trainign" in (failed.user_failure_data.description or "")


def test_a_cluster_that_nobody_answers_for_is_told_soon(stand: KubernetesStand, tmp_path: Path):
    nobody = kube_config(tmp_path, "http://127.0.0.1:9")
    error = refused(stand, tmp_path, kube_config=str(nobody))
    assert isinstance(error, Unreachable)
    assert f"does not answer after {FIRST_TRIES} tries" in str(error)
    assert "Connection refused" in str(error)
    assert str(nobody) in str(error)


class Welcome(Quiet, BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Welcome to nginx!</html>")


def test_a_web_server_that_is_no_cluster_is_told_from_one(stand: KubernetesStand, tmp_path: Path):
    with web_server(Welcome) as address:
        error = refused(stand, tmp_path, kube_config=str(kube_config(tmp_path, address)))
    assert isinstance(error, Unreachable)
    assert "no API server of Kubernetes: b'<html>Welcome" in str(error)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"context": "production"}, "production"),
        ({"kube_config": "/nowhere/config"}, "Invalid kube-config file. No configuration found."),
        ({"kube_config": "BROKEN"}, "while parsing"),
    ],
)
def test_a_cluster_that_is_not_configured_says_what_to_name(stand: KubernetesStand, tmp_path: Path, settings: dict[str, str], said: str):
    if "kube_config" in settings:
        settings = {"kube_config": settings["kube_config"].replace("BROKEN", str(tmp_path / "broken"))}
        (tmp_path / "broken").write_text("clusters: [", encoding="utf-8")
    error = refused(stand, tmp_path, **settings)
    assert isinstance(error, NotConfigured)
    assert said in str(error)
    assert "compute.place.kube_config" in str(error)


def test_a_client_that_is_not_installed_is_named_with_its_extra(stand: KubernetesStand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "kubernetes.client", None)
    error = refused(stand, tmp_path)
    assert isinstance(error, NotConfigured)
    assert "pip install 'fine_tune_pipeline[kubernetes]'" in str(error)


def test_in_a_pod_without_token_its_service_account_is_asked_for(stand: KubernetesStand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    error = refused(stand, tmp_path, kube_config=None, context=None)
    assert isinstance(error, NotConfigured)
    assert "mount the token of its service account" in str(error)


def test_waits_double_to_a_limit_and_a_server_that_names_its_wait_gets_it(stand: KubernetesStand, monkeypatch: pytest.MonkeyPatch):
    from kubernetes.client.exceptions import ApiException

    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    patience = Patience(stand.place(retry_seconds=0.5), tries=9)
    busy = ApiException(status=429)
    for retry_after in (None, None, "7", None, None, None, None, "3600"):
        busy.headers = {"Retry-After": retry_after} if retry_after else {}
        patience.wait(busy)
    assert slept == [0.5, 1, 7, 4, 8, 16, 30, 30]
    with pytest.raises(Unreachable, match="after 9 tries"):
        patience.wait(busy)
    patience.answered()
    patience.wait(busy)
    assert slept[-1] == 30


def test_the_role_that_we_ship_grants_what_is_asked_and_nothing_more(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    role = next(yaml.safe_load_all((EXAMPLES / "role.yaml").read_text(encoding="utf-8")))
    granted = {(verb, resource) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    cluster.granted = granted
    ended, _ = executed(stand.place(), tmp_path / "output", "answer")
    assert ended.cause == Cause.DONE
    refused(stand, tmp_path, image="missing:1", start_seconds=0.5)
    assert set(cluster.used) == granted


def test_a_token_that_expires_while_a_program_runs_leaves_it_to_its_lease(
    stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cluster.faults += [Fault(*asked, status=401, message="Unauthorized", times=1000) for asked in (("get", "pods/log"), ("delete", "jobs"))]
    with pytest.raises(NotAuthenticated, match="Log in to the cluster anew"), caplog.at_level("WARNING"):
        executed(stand.place(), tmp_path / "output", "answer")
    (job,) = cluster.all("jobs")
    assert f"Job {job['metadata']['name']} could not be removed" in caplog.text
    assert f"`kubectl delete job --namespace training {job['metadata']['name']}` removes it" in caplog.text
