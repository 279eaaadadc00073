"""The Job that runs one program, as Kubernetes wants it: a plain dict, nothing but what was configured and what the program is told."""

import hashlib
import json
import os.path
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster_pipes import decode_param

from fine_tune_pipeline.resources.compute.job import Job, PlaceFailure
from fine_tune_pipeline.resources.compute.kubernetes_settings import KubernetesSettings, Toleration

Manifest = dict[str, Any]

CONTAINER = "program"
"""Beside it there may be containers that the cluster adds."""

PREFIX = "fine-tune-pipeline"
REQUEST = f"{PREFIX}/request-sha256"
TRY = f"{PREFIX}/try"

SHARED_MEMORY, SCRATCH = "/dev/shm", "/tmp"

HOME = {"HOME": SCRATCH, "USER": "program", "LOGNAME": "program"}
"""The image need not know the user."""

PULL = {"never": "Never", "missing": "IfNotPresent", "always": "Always"}

LABEL_LENGTH = 63
MIB_PER_GIB = 1024


class NotShared(PlaceFailure):
    """The program would not see what its request names."""


def job_manifest(place: KubernetesSettings, job: Job, *, attempt: str) -> Manifest:
    """The Job of `batch/v1`.

    Args:
        attempt: unlike that of any other try, so that a Job whose creation was not confirmed is known again.

    Raises:
        NotShared: a path of the request lies under no volume.
    """
    _refuse_unshared(place, job)
    about = {"labels": _labels(place, job), "annotations": _annotations(place, job, attempt)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job_name(place, job), "namespace": place.namespace, **about},
        "spec": {
            # Whether to try again is Dagster's to say: a second pod would pay without being asked.
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]},
            "ttlSecondsAfterFinished": place.kept_seconds,
            # The pod's own limit counts from its start; this one is for a pod whose node is silent.
            **_deadline(place.timeout_seconds and place.start_seconds + place.timeout_seconds),
            "template": {"metadata": about, "spec": _pod(place, job)},
        },
    }


def job_name(place: KubernetesSettings, job: Job) -> str:
    """The same for each try of the same work on the same storage: two installations may share a namespace, and paths."""
    return f"{job.name}-{_sha256(json.dumps(place.volumes, sort_keys=True))[:8]}"


def request_sha256(job: Job) -> str:
    """Of what is asked: a Job that was found is the same work if it has the same."""
    return _sha256(job.request.identity())


def _refuse_unshared(place: KubernetesSettings, job: Job) -> None:
    named = {os.path.normpath(path) for path in (job.folder, *job.reads, *job.writes)}
    outside = sorted(path for path in named if not any(Path(path).is_relative_to(mount) for mount in place.volumes.values()))
    if outside:
        mounts = ", ".join(place.volumes.values()) or "nothing"
        raise NotShared(
            f"compute.place.volumes: {', '.join(outside)}: not on storage that pods share with Dagster, which mounts {mounts}. Mount a "
            "PersistentVolumeClaim (ReadWriteMany) at the same path here and in compute.place.volumes, and set FINE_TUNE_PIPELINE_HOME to "
            "a folder below it; files that a use case names must lie there too."
        )


def _pod(place: KubernetesSettings, job: Job) -> Manifest:
    options = {
        "imagePullSecrets": [{"name": name} for name in place.image_pull_secrets],
        "nodeSelector": dict(place.node_selector),
        "tolerations": [_toleration(one) for one in place.tolerations],
        "priorityClassName": place.priority_class,
        "serviceAccountName": place.service_account,
    }
    return {
        "restartPolicy": "Never",
        **_deadline(place.timeout_seconds),
        "terminationGracePeriodSeconds": place.grace_seconds,
        "automountServiceAccountToken": False,
        # A Service called mlflow would set MLFLOW_PORT, which MLflow reads as its own.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": place.user,
            "runAsGroup": place.group,
            "fsGroup": place.group,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(place, job)],
        "volumes": [{"name": name, **what} for name, what, _ in _mounts(place)],
        **{name: option for name, option in options.items() if option},
    }


def _container(place: KubernetesSettings, job: Job) -> Manifest:
    resources = _resources(place, on_device=job.on_device)
    return {
        "name": CONTAINER,
        "image": place.image,
        "imagePullPolicy": PULL[place.pull],
        "command": place.command(job, python=place.python),
        "env": _environment(place, job),
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": name, **mount} for name, _, mount in _mounts(place)],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _resources(place: KubernetesSettings, *, on_device: bool) -> dict[str, str]:
    # Requests equal limits: such pods are the last that a node in need evicts.
    amounts = {"cpu": f"{place.cpus:g}", "memory": _memory(place.memory_gib)}
    return {**amounts, place.gpu_resource: str(place.gpus)} if on_device and place.gpus else amounts


def _environment(place: KubernetesSettings, job: Job) -> list[Manifest]:
    # Libraries count the node's cores, of which the pod has a share.
    plain = {"OMP_NUM_THREADS": str(max(1, int(place.cpus))), **HOME, **job.environment}
    secrets = {variable: secret.split("/", 1) for variable, secret in place.secrets.items()}
    return [
        *({"name": name, "value": value} for name, value in sorted(plain.items()) if name not in secrets),
        *({"name": name, "valueFrom": {"secretKeyRef": {"name": of, "key": key}}} for name, (of, key) in sorted(secrets.items())),
    ]


def _mounts(place: KubernetesSettings) -> list[tuple[str, Manifest, Manifest]]:
    """Name, volume and mount; a claim that is mounted on one of the pod's own folders is there instead."""
    shared = {"emptyDir": {"medium": "Memory", "sizeLimit": _memory(place.shm_gib)}}
    scratch = {"emptyDir": {"sizeLimit": _memory(place.scratch_gib)} if place.scratch_gib else {}}
    own = [("shared-memory", shared, {"mountPath": SHARED_MEMORY}), ("scratch", scratch, {"mountPath": SCRATCH})]
    claims = []
    for number, (source, path) in enumerate(place.volumes.items()):
        claim, _, folder = source.partition("/")
        mount = {"mountPath": path, **({"subPath": folder} if folder else {})}
        claims.append((f"claim-{number}", {"persistentVolumeClaim": {"claimName": claim}}, mount))
    return [*(one for one in own if one[2]["mountPath"] not in place.volumes.values()), *claims]


def _labels(place: KubernetesSettings, job: Job) -> dict[str, str]:
    told = _told_by_dagster(job)
    use_case, _, asset = next(iter(told.get("asset_keys") or [""])).rpartition("/")
    known = {f"{PREFIX}/use-case": use_case, f"{PREFIX}/asset": asset, "dagster/run-id": told.get("run_id") or ""}
    return {
        **place.labels,
        "app.kubernetes.io/managed-by": PREFIX,
        "app.kubernetes.io/component": job.program.replace("_", "-"),
        **{name: _label(value) for name, value in known.items() if _label(value)},
    }


def _annotations(place: KubernetesSettings, job: Job, attempt: str) -> dict[str, str]:
    return {**place.annotations, REQUEST: request_sha256(job), TRY: attempt}


def _told_by_dagster(job: Job) -> Mapping[str, Any]:
    told = job.environment.get("DAGSTER_PIPES_CONTEXT")
    return decode_param(told).get("data", {}) if told else {}


def _label(value: str) -> str:
    """As near to the value as a label's letters allow."""
    return re.sub(r"[^-A-Za-z0-9_.]", "-", value)[:LABEL_LENGTH].strip("-_.")


def _toleration(one: Toleration) -> Manifest:
    return {name: value for name, value in one.model_dump().items() if value is not None}


def _deadline(seconds: float | None) -> Manifest:
    # In whole seconds only.
    return {"activeDeadlineSeconds": max(1, round(seconds))} if seconds else {}


def _memory(gib: float) -> str:
    return f"{round(gib * MIB_PER_GIB)}Mi"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
