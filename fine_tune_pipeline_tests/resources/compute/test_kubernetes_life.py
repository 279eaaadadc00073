"""From creation to removal of a Job, on a cluster that misbehaves as real ones do."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.resources.compute.exchange import exchange, leased
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, failure
from fine_tune_pipeline.resources.compute.kubernetes_refusals import NameTaken
from fine_tune_pipeline.resources.compute.place import Place
from fine_tune_pipeline_tests.resources.compute.fake_kubernetes import FakeCluster, Fault
from fine_tune_pipeline_tests.resources.compute.kubernetes_stand import SETTINGS, KubernetesStand
from fine_tune_pipeline_tests.resources.compute.odd_program import UNICODE, OddRequest, OddResult, ResumableRequest
from fine_tune_pipeline_tests.resources.compute.test_contract import executed, materialized
from fine_tune_pipeline_tests.waiting import wait_until

WAITED = "".join(f"line {number} {UNICODE}\n" for number in range(3)) + "gone on\n"
"""What the waiting program prints, before its progress bar."""


@pytest.fixture
def stand() -> Iterator[KubernetesStand]:
    stand = KubernetesStand()
    yield stand
    stand.close()


@pytest.fixture
def cluster(stand: KubernetesStand) -> FakeCluster:
    return stand.cluster


class Run:
    """A program that waits, run in a thread; `go` lets it end."""

    def __init__(self, place: Place, folder: Path, request: OddRequest) -> None:
        self._folder = folder
        self._ended: list[Ended] = []
        self.job: Job | None = None
        self._thread = threading.Thread(target=self._run, args=(place, request))
        self._thread.start()

    def _run(self, place: Place, request: OddRequest) -> None:
        with exchange(request) as talk, leased(talk, place.lease) as lease:
            self.job = Job(request=request, folder=talk, environment=lease)
            self._ended.append(place.execute(self.job))

    def wait_until_it_runs(self) -> None:
        wait_until(lambda: (self._folder / "pids").exists() or not self._thread.is_alive(), what="the program waits")

    def go(self) -> None:
        (self._folder / "go").touch()

    def ended(self) -> Ended:
        self._thread.join()
        return self._ended[0]


def waiting_run(place: Place, folder: Path, *, resumable: bool = False) -> Run:
    folder.mkdir(exist_ok=True)
    run = Run(place, folder, (ResumableRequest if resumable else OddRequest)(output=str(folder), do="wait"))
    run.wait_until_it_runs()
    return run


RUN = """
import json, sys
import dagster as dg
from fine_tune_pipeline.resources.compute.kubernetes import Kubernetes
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline_tests.resources.compute import odd_program

settings, kind, request = map(json.loads, sys.argv[1:])

@dg.asset
def odd(context: dg.AssetExecutionContext) -> None:
    asked = getattr(odd_program, kind)(**request)
    PlacedCompute(place=Kubernetes(**settings)).run(context, asked, odd_program.OddResult)

with dg.DagsterInstance.ephemeral() as instance:
    dg.materialize([odd], instance=instance)
"""
"""A process that runs a request, for a test that kills it."""


def killed_run(stand: KubernetesStand, request: OddRequest, **more: Any) -> None:
    """Run the request in a process that is killed while the program waits."""
    settings = {**SETTINGS, "kube_config": str(stand.kube_config), **more}
    arguments = [json.dumps(settings), json.dumps(type(request).__name__), request.model_dump_json()]
    process = subprocess.Popen([sys.executable, "-c", RUN, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until((Path(request.output) / "pids").exists, what="the program waits")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@contextmanager
def goes_on(cluster: FakeCluster, folder: Path, *, creations: int) -> Iterator[None]:
    """Let programs go on when a Job has been asked for so many times, of which the killed run asked for the first."""

    def go() -> None:
        wait_until(lambda: cluster.used["create", "jobs"] == creations, what="the next try asks for its Job")
        (folder / "go").touch()

    thread = threading.Thread(target=go)
    thread.start()
    yield
    thread.join()


def before_the_bar(tail: str) -> str:
    return tail[: tail.find("counting")]


def jobs_made(cluster: FakeCluster) -> int:
    return sum(resource == "jobs" and kind == "ADDED" for _, resource, kind, _ in cluster.history)


def the_pod(cluster: FakeCluster) -> dict[str, Any]:
    (pod,) = cluster.all("pods")
    return pod


def test_after_a_kill_the_next_try_takes_the_running_job_over(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    request = ResumableRequest(output=str(tmp_path), do="wait")
    killed_run(stand, request)
    with goes_on(cluster, tmp_path, creations=2), dg.DagsterInstance.ephemeral() as instance:
        result = materialized(stand.place(), request, instance)
    assert result.asset_materializations_for_node("odd")[0].metadata["said"].value == "done"
    assert (tmp_path / "times").read_text(encoding="utf-8") == "."
    assert jobs_made(cluster) == 1
    assert stand.left(tmp_path) == []


def test_a_job_that_ended_while_nobody_looked_is_collected(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    place = stand.place()
    request = ResumableRequest(output=str(tmp_path), do="wait")
    killed_run(stand, request)
    (tmp_path / "go").touch()
    wait_until(lambda: any("Complete" in str(job["status"]) for job in cluster.all("jobs")), what="the job is complete")
    with exchange(request) as talk:
        assert place.execute(Job(request=request, folder=talk)).cause == Cause.DONE
    assert jobs_made(cluster) == 1
    assert stand.left(tmp_path) == []


def test_work_that_cannot_go_on_is_begun_anew_after_a_kill(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    request = OddRequest(output=str(tmp_path), do="wait")
    killed_run(stand, request)
    first = the_pod(cluster)["metadata"]["name"]
    cluster.kubelet.slow = True
    with goes_on(cluster, tmp_path, creations=3), dg.DagsterInstance.ephemeral() as instance:
        assert materialized(stand.place(), request, instance).success
    assert jobs_made(cluster) == 2
    told = [(resource, kind, shown["metadata"]["name"]) for _, resource, kind, shown in cluster.history if resource == "pods"]
    started = next(place for place, (_, kind, name) in enumerate(told) if kind == "ADDED" and name != first)
    assert told.index(("pods", "DELETED", first)) < started, "two programs wrote the same folder"
    assert stand.left(tmp_path) == []


def test_a_failed_job_of_an_earlier_try_makes_room(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    request = ResumableRequest(output=str(tmp_path), do="wait")
    killed_run(stand, request)
    cluster.kubelet.evict(the_pod(cluster), condition={"reason": "TerminationByKubelet"}, status={"reason": "Evicted"})
    wait_until(lambda: any("Failed" in str(job["status"]) for job in cluster.all("jobs")), what="the job has failed")
    (tmp_path / "go").touch()
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialized(stand.place(), request, instance).success
    assert jobs_made(cluster) == 2
    assert stand.left(tmp_path) == []


def test_a_job_that_is_not_of_this_work_is_left_alone(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    run = waiting_run(stand.place(), tmp_path, resumable=True)
    (job,) = cluster.all("jobs")
    with cluster.changed:
        job["metadata"]["annotations"]["fine-tune-pipeline/request-sha256"] = "of another"
    assert run.job is not None
    with pytest.raises(NameTaken, match="is not of this work"):
        stand.place().execute(run.job)
    assert cluster.all("jobs") == [job]
    run.go()
    assert run.ended().cause == Cause.DONE


@pytest.mark.parametrize("resumable", [True, False])
def test_a_creation_that_was_not_confirmed_makes_one_job(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path, resumable: bool):
    cluster.faults.append(Fault("create", "jobs", drop=True, after=True))
    run = waiting_run(stand.place(), tmp_path, resumable=resumable)
    run.go()
    assert run.ended().cause == Cause.DONE
    assert (len(cluster.created), jobs_made(cluster)) == (2, 1)
    assert stand.left(tmp_path) == []


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("create", "jobs", status=429, retry_after="0", times=2)],
        [Fault("create", "jobs", status=503), Fault("list", "pods", status=500), Fault("watch", "pods", status=502, times=3)],
        [Fault("list", "pods", drop=True), Fault("watch", "pods", drop=True, times=2), Fault("delete", "jobs", drop=True, after=True)],
        [Fault("watch", "pods", gone=True)],
        [Fault("watch", "pods", status=410)],
        [Fault("get", "pods/log", status=500, times=2)],
    ],
    ids=["busy", "errors", "disconnects", "watch_gone", "watch_gone_at_once", "no_log_yet"],
)
def test_a_program_ends_well_on_a_cluster_with_troubles(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path, faults: list[Fault]):
    cluster.faults += faults
    run = waiting_run(stand.place(start_seconds=4), tmp_path)
    run.go()
    assert (run.ended().cause, before_the_bar(run.ended().tail)) == (Cause.DONE, WAITED)
    assert [fault.times for fault in faults] == [0] * len(faults)
    assert jobs_made(cluster) == 1
    assert stand.left(tmp_path) == []


@pytest.mark.parametrize("cut_lines", [0, 1, 2])
def test_a_log_stream_that_breaks_loses_and_repeats_nothing(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path, cut_lines: int):
    fault = Fault("get", "pods/log", cut_lines=cut_lines, times=2)
    cluster.faults.append(fault)
    run = waiting_run(stand.place(start_seconds=4), tmp_path)
    wait_until(lambda: fault.times == 0, what="the log was cut twice")
    run.go()
    assert (run.ended().cause, before_the_bar(run.ended().tail)) == (Cause.DONE, WAITED)


def test_a_log_that_is_rotated_goes_on_in_its_new_file(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    fault = Fault("get", "pods/log", cut_lines=3, rotated=True)
    cluster.faults.append(fault)
    run = waiting_run(stand.place(start_seconds=4), tmp_path)
    wait_until(lambda: fault.times == 0, what="the log is followed")
    run.go()
    assert (run.ended().cause, before_the_bar(run.ended().tail)) == (Cause.DONE, WAITED)
    assert not any(b"line 0" in line for log in cluster.kubelet.logs.values() for line in log.text)


def test_a_log_stream_that_hangs_is_given_up(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.faults.append(Fault("get", "pods/log", hang=True))
    run = waiting_run(stand.place(silence_seconds=0.3), tmp_path)
    run.go()
    assert (run.ended().cause, before_the_bar(run.ended().tail)) == (Cause.DONE, WAITED)


def test_a_program_whose_node_gives_no_logs_runs_all_the_same(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    cluster.faults.append(Fault("get", "pods/log", status=500, message="dial tcp 10.0.0.7:10250: i/o timeout", times=1000))
    run = waiting_run(stand.place(start_seconds=4), tmp_path)
    run.go()
    assert (run.ended().cause, run.ended().tail) == (Cause.DONE, "")
    assert OddResult.read(tmp_path / "result.json").said == "done"


def test_old_versions_that_are_forgotten_are_listed_anew(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    run = waiting_run(stand.place(start_seconds=4, silence_seconds=0.2), tmp_path)
    lists = cluster.used["list", "pods"]
    cluster.compact()
    wait_until(lambda: cluster.used["list", "pods"] > lists, what="the pods are listed anew")
    run.go()
    assert run.ended().cause == Cause.DONE


def test_a_program_that_takes_more_memory_than_its_pod_has_is_told_so(stand: KubernetesStand, tmp_path: Path):
    ended, job = executed(stand.place(memory_gib=0.25), tmp_path / "output", "take_memory", variables={"ODD_MEMORY_LIMITED": "1"})
    assert (ended.cause, ended.status) == (Cause.OUT_OF_MEMORY, -signal.SIGKILL)
    said = failure(job, ended).description or ""
    assert "was killed for its memory. Kubernetes says: OOMKilled." in said
    assert "give the place more memory" in said
    assert stand.left(tmp_path) == []


def evicted(cluster: FakeCluster, pod: dict[str, Any]) -> None:
    condition = {"reason": "TerminationByKubelet", "message": "The node was low on resource: ephemeral-storage."}
    cluster.kubelet.evict(pod, condition=condition, status={"reason": "Evicted"})


def preempted(cluster: FakeCluster, pod: dict[str, Any]) -> None:
    cluster.kubelet.evict(pod, condition={"reason": "PreemptionByScheduler", "message": "preempting"}, status={})


def deleted(cluster: FakeCluster, pod: dict[str, Any]) -> None:
    cluster.kubelet.delete(pod)


def without_node(cluster: FakeCluster, pod: dict[str, Any]) -> None:
    cluster.kubelet.lose_node(pod)


def without_job(cluster: FakeCluster, pod: dict[str, Any]) -> None:
    cluster.delete_job(pod["metadata"]["labels"]["batch.kubernetes.io/job-name"], {})


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (evicted, "TerminationByKubelet: The node was low on resource: ephemeral-storage."),
        (preempted, "PreemptionByScheduler: preempting."),
        (deleted, "Its pod was deleted by someone else"),
        (without_job, "Its Job was deleted by someone else."),
        (without_node, "DeletionByTaintManager: Taint manager: deleting due to NoExecute taint."),
    ],
)
def test_a_pod_that_is_taken_away_is_worth_another_try(
    stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path, how: Callable[[FakeCluster, dict[str, Any]], None], said: str
):
    run = waiting_run(stand.place(start_seconds=4, silence_seconds=0.3), tmp_path)
    how(cluster, the_pod(cluster))
    ended = run.ended()
    assert ended.cause == Cause.LOST
    assert said in ended.said
    assert run.job is not None
    assert failure(run.job, ended).allow_retries
    assert cluster.all("jobs") == []


def test_an_interrupt_removes_job_and_pod_before_it_goes_on(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    hanging, main = tmp_path / "output" / "pids", threading.get_ident()
    cluster.kubelet.slow = True

    def interrupt() -> None:
        wait_until(hanging.exists, what="the program hangs")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        executed(stand.place(), tmp_path / "output", "hang")
    assert stand.left(tmp_path) == []
    thread.join()
    assert cluster.propagation == ["Background"]
    assert [kind for _, resource, kind, _ in cluster.history if resource == "pods"][-1] == "DELETED"


def test_a_cluster_that_is_gone_for_long_loses_the_program_and_the_next_try_finds_it(
    stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path
):
    place = stand.place(tries=3, start_seconds=4, silence_seconds=0.3)
    run = waiting_run(place, tmp_path, resumable=True)
    # What has been used so far need not be all: the first watch may come later.
    later = [("delete", "jobs"), ("list", "pods"), ("watch", "pods"), ("get", "pods/log")]
    away = [Fault(verb, resource, status=503, times=10**6) for verb, resource in {*cluster.used, *later}]
    cluster.faults += away
    ended = run.ended()
    assert ended.cause == Cause.LOST
    assert "does not answer after 3 tries" in ended.said
    assert "the next try takes it over" in ended.said
    cluster.faults.clear()
    (tmp_path / "go").touch()
    assert run.job is not None
    with leased(run.job.folder, place.lease):
        assert place.execute(run.job).cause == Cause.DONE
    assert jobs_made(cluster) == 1
    assert stand.left(tmp_path) == []


def test_what_a_program_wrote_is_looked_at_anew_when_it_has_ended(
    stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    listed: list[tuple[str, int]] = []
    real = os.listdir

    def listdir(path: Any) -> list[str]:
        listed.append((str(path), len(cluster.all("jobs"))))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    executed(stand.place(), tmp_path, "answer")
    assert {(str(tmp_path), 0), (str(tmp_path / ".exchange"), 0)} <= set(listed)


def test_a_program_that_nobody_collects_ends_by_itself(stand: KubernetesStand, cluster: FakeCluster, tmp_path: Path):
    killed_run(stand, ResumableRequest(output=str(tmp_path), do="wait"), lease_seconds=1.0)
    wait_until(lambda: the_pod(cluster)["status"]["phase"] == "Failed", what="the program has ended by itself")
    assert any(b"nobody has renewed" in line for line in cluster.kubelet.logs[the_pod(cluster)["metadata"]["name"]].text)
