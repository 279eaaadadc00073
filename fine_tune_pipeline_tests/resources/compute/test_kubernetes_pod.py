"""What a pod and its Job say: as real clusters show them, shortened."""

from typing import Any

import pytest

from fine_tune_pipeline.resources.compute.job import Cause
from fine_tune_pipeline.resources.compute.kubernetes_pod import ended, over, running, waiting


def pod(state: dict[str, Any] | None = None, *, deleted: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {"name": "train-1", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})}
    containers = [{"name": "istio-proxy", "state": {"running": {}}}, {"name": "program", "state": state}] if state else []
    return {"metadata": metadata, "status": {"phase": "Running", "containerStatuses": containers, **status}}


def stopped(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason}}


def job(kind: str | None = None, reason: str = "") -> dict[str, Any]:
    conditions = [{"type": kind, "status": "True", "reason": reason, "message": f"message of {reason}"}] if kind else []
    return {"metadata": {"name": "train"}, "status": {"conditions": conditions}}


DISRUPTED = [
    {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "preempting to accommodate another"}
]


@pytest.mark.parametrize(
    ("seen", "its_job", "cause", "status", "said"),
    [
        (pod(stopped(0, "Completed")), job(), Cause.DONE, 0, ""),
        (pod(stopped(0, "Completed")), None, Cause.DONE, 0, ""),
        (None, job("Complete"), Cause.DONE, 0, ""),
        (pod(stopped(3)), job("Failed", "BackoffLimitExceeded"), Cause.ERROR, 3, ""),
        (pod(stopped(255)), job(), Cause.ERROR, 255, ""),
        (pod(stopped(137)), job(), Cause.ERROR, -9, ""),
        (pod(stopped(137, "OOMKilled")), job(), Cause.OUT_OF_MEMORY, -9, "OOMKilled"),
        (pod(stopped(137), reason="DeadlineExceeded", message="too long"), job(), Cause.TIMEOUT, -9, "DeadlineExceeded: too long"),
        (pod({"running": {}}, deleted=True), job("Failed", "DeadlineExceeded"), Cause.TIMEOUT, None, ""),
        (pod({"running": {}}), job("FailureTarget", "DeadlineExceeded"), Cause.TIMEOUT, None, ""),
        (pod(stopped(137), reason="Evicted", message="The node was low"), job(), Cause.LOST, -9, "Evicted: The node was low"),
        (pod(stopped(143), conditions=DISRUPTED), job(), Cause.LOST, -15, "PreemptionByScheduler: preempting"),
        (pod(reason="NodeLost"), job(), Cause.LOST, None, "NodeLost"),
        (pod(stopped(143), deleted=True), job(), Cause.LOST, -15, "Its pod was deleted by someone else"),
        (pod({"running": {}}, deleted=True), None, Cause.LOST, None, "Its Job was deleted by someone else"),
        (pod({"running": {}}), job(), Cause.LOST, None, "Its pod is gone"),
        (None, None, Cause.LOST, None, "Its Job was deleted by someone else"),
    ],
)  # fmt: skip
def test_the_end_of_a_program_is_read_from_pod_and_job(seen: Any, its_job: Any, cause: Cause, status: int | None, said: str):
    end = ended(seen, its_job, "tail")
    assert (end.cause, end.status, end.tail) == (cause, status, "tail")
    assert said in end.said


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]),
            "Unschedulable: 0/3 nodes",
        ),
        (pod({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling"}}), "ImagePullBackOff: Back-off pulling"),
        (pod({"waiting": {"reason": "ContainerCreating"}}), "ContainerCreating"),
        (pod(), "Pending"),
    ],
)
def test_why_a_pod_waits_is_said_in_kubernetes_words(seen: Any, said: str):
    assert str(waiting(seen)) == said
    assert waiting(seen).remedy


def test_only_the_program_counts_not_what_runs_beside_it():
    assert over(pod(stopped(0)))
    assert not running(pod(stopped(0)))
    assert running(pod({"running": {}}))
    assert not over(pod({"running": {}}))
