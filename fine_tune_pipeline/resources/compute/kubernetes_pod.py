"""What a pod and its Job, as the API server shows them, say of the program: why it does not start, whether it runs, how it ended."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.resources.compute.job import Cause, Ended
from fine_tune_pipeline.resources.compute.kubernetes_manifest import CONTAINER

Shown = Mapping[str, Any]
"""An object of the API, with the names of its documentation."""

BY_SIGNAL = 128
"""Exit codes above it are those of a process that a signal has ended."""

DEADLINE = "DeadlineExceeded"

HOPELESS = {"InvalidImageName", "ErrImageNeverPull"}
"""What no waiting changes."""

REMEDIES = {
    "Unschedulable": "No node takes the pod: lower compute.place.cpus, memory_gib or gpus, correct node_selector and tolerations, create "
    "the PersistentVolumeClaim, or wait for the nodes with a larger start_seconds.",
    "ErrImagePull": "Correct compute.place.image, or name a Secret for its registry in image_pull_secrets.",
    "ImagePullBackOff": "Correct compute.place.image, or name a Secret for its registry in image_pull_secrets.",
    "InvalidImageName": "Correct compute.place.image.",
    "ErrImageNeverPull": "Load the image on the nodes, or set compute.place.pull to missing.",
    "CreateContainerConfigError": "Create the Secret and key that compute.place.secrets names, in compute.place.namespace.",
    "CreateContainerError": "Look whether compute.place.python and the volumes fit the image.",
    "ContainerCreating": "The image is large, or a volume cannot be mounted: raise compute.place.start_seconds, or see the pod's events.",
    "FailedCreate": "Kubernetes refuses the pod: free or raise the quota, or change what its message names in compute.place.",
    "Suspended": "A queue holds the Job back: wait for it with a larger compute.place.start_seconds.",
}


@dataclass(frozen=True)
class Waiting:
    """Why a program has not started yet: Kubernetes' own word and sentence."""

    reason: str
    message: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason

    @property
    def sentence(self) -> str:
        return f"Kubernetes says: {str(self).rstrip('.')}."

    @property
    def remedy(self) -> str:
        return REMEDIES.get(self.reason, "See `kubectl describe pod`, or wait longer with compute.place.start_seconds.")


def name_of(shown: Shown) -> str:
    """Of any object."""
    return str(shown["metadata"]["name"])


def condition(shown: Shown, kind: str) -> Shown | None:
    """The condition of that type, if it holds."""
    found = (one for one in shown.get("status", {}).get("conditions") or () if one["type"] == kind and one["status"] == "True")
    return next(found, None)


def container_state(pod: Shown) -> Shown:
    """`waiting`, `running` or `terminated`, each with its details; empty as long as the node has not taken the pod."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return next((one.get("state") or {} for one in statuses if one["name"] == CONTAINER), {})


def running(pod: Shown) -> bool:
    """Whether its program runs now."""
    return "running" in container_state(pod)


def over(pod: Shown) -> bool:
    """Whether its program has ended, or will never start."""
    return "terminated" in container_state(pod) or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def waiting(pod: Shown) -> Waiting:
    """Why the pod's program does not run yet."""
    for one in pod.get("status", {}).get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return Waiting(one.get("reason") or "Unschedulable", one.get("message") or "")
    state = container_state(pod).get("waiting") or {}
    return Waiting(state.get("reason") or "Pending", state.get("message") or "")


def failed(job: Shown) -> bool:
    """Whether nothing good will come of it any more."""
    return condition(job, "Failed") is not None or condition(job, "FailureTarget") is not None


def settled(job: Shown) -> bool:
    """Whether it has come to its end, of either kind."""
    return failed(job) or condition(job, "Complete") is not None


def ended(pod: Shown | None, job: Shown | None, tail: str) -> Ended:
    """How a program ended.

    Args:
        pod: as it was last seen; None if it never was.
        job: as it is now; None if it is gone.
        tail: the last lines of its output.
    """
    status = (pod or {}).get("status", {})
    stopped = container_state(pod or {}).get("terminated")
    code = _code(stopped["exitCode"]) if stopped else None
    said = _said(status.get("reason"), status.get("message"))
    if code == 0 or (code is None and job is not None and condition(job, "Complete") is not None):
        return Ended.by(0, tail)
    if DEADLINE in (status.get("reason"), (_failure(job) or {}).get("reason")):
        return Ended(Cause.TIMEOUT, code, tail, said)
    if stopped and stopped.get("reason") == "OOMKilled":
        return Ended(Cause.OUT_OF_MEMORY, code, tail, "Kubernetes says: OOMKilled.")
    if lost := _taken_away(pod, job):
        return Ended(Cause.LOST, code, tail, lost)
    if code is not None:
        return Ended(Cause.ERROR, code, tail, said)
    return Ended(Cause.LOST, None, tail, said or "Its pod is gone.")


def _taken_away(pod: Shown | None, job: Shown | None) -> str:
    """Who ended it, if it was not the program itself."""
    disrupted = condition(pod or {}, "DisruptionTarget")
    status = (pod or {}).get("status", {})
    if disrupted is not None:
        return _said(disrupted.get("reason"), disrupted.get("message"))
    if job is None:
        return "Its Job was deleted by someone else."
    if "deletionTimestamp" in (pod or {}).get("metadata", {}):
        return "Its pod was deleted by someone else, or with its node."
    # Evicted, NodeLost, Preempting, Terminated, UnexpectedAdmissionError: the kubelet's word for the whole pod.
    return _said(status.get("reason"), status.get("message")) if status.get("reason") else ""


def _failure(job: Shown | None) -> Shown | None:
    return (condition(job, "Failed") or condition(job, "FailureTarget")) if job else None


def _said(reason: str | None, message: str | None) -> str:
    return f"Kubernetes says: {': '.join(part for part in (reason, message) if part).rstrip('.')}." if reason or message else ""


def _code(exit_code: int) -> int:
    """As Python's subprocess has it: negative for a signal."""
    number = exit_code - BY_SIGNAL
    return -number if number in {int(one) for one in signal.Signals} else exit_code
