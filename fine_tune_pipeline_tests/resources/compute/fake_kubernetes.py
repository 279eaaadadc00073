"""An API server of Kubernetes for tests, after its public API reference: Jobs, pods, logs and events over HTTP, with watches.

Its controllers and its node (`fake_kubelet`) do what the real ones do, as far as one Job with one pod can see. `Fault`s make it
misbehave as real ones do.
"""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate

from fine_tune_pipeline_tests.resources.compute.fake_kubelet import Kubelet
from fine_tune_pipeline_tests.resources.compute.fake_kubernetes_http import ApiHandler

NAMESPACE, TOKEN, IMAGE, CLAIM = "training", "a-good-token", "fine_tune_pipeline:test", "shared"
VERSION = "1.37"

Object = dict[str, Any]


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of a kind, after `skip` that go well."""

    verb: str
    resource: str
    status: int | None = None
    message: str = "the server is busy"
    retry_after: str | None = None
    drop: bool = False
    """The connection is closed instead of an answer."""
    after: bool = False
    """Only when the request has been carried out."""
    cut_lines: int | None = None
    """A log stream is closed without its end after so many lines, and half of the next."""
    rotated: bool = False
    """It ends there as if it were whole, and the lines so far are gone from the node."""
    hang: bool = False
    """A log stream says nothing, and does not end."""
    gone: bool = False
    """A watch says at once that its version is too old."""
    times: int = 1
    skip: int = 0


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, *, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


@dataclass
class FakeCluster:
    """What there is in the cluster, what was asked, and what goes wrong."""

    images: set[str] = field(default_factory=lambda: {IMAGE})
    claims: set[str] = field(default_factory=lambda: {CLAIM})
    secrets: dict[tuple[str, str], str] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    granted: set[tuple[str, str]] | None = None
    """Verbs and resources; all by default."""
    job_quota: str | None = None
    pod_quota: str | None = None
    suspended: bool = False
    faults: list[Fault] = field(default_factory=list)
    used: Counter[tuple[str, str]] = field(default_factory=Counter)
    created: list[Object] = field(default_factory=list)
    """Manifests of Jobs, as they came."""
    propagation: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.objects: dict[tuple[str, str], Object] = {}
        self.history: list[tuple[int, str, str, Object]] = []
        self.version = 1
        self.oldest = 0
        self.closing = False
        self.kubelet = Kubelet(self)

    def put(self, resource: str, shown: Object, *, kind: str | None = None) -> None:
        """Write an object, as new or changed; watches tell of it."""
        with self.changed:
            self.version += 1
            key = (resource, shown["metadata"]["name"])
            kind = kind or ("MODIFIED" if key in self.objects else "ADDED")
            shown["metadata"]["resourceVersion"] = str(self.version)
            if kind == "DELETED":
                self.objects.pop(key, None)
            else:
                self.objects[key] = shown
            self.history.append((self.version, resource, kind, deepcopy(shown)))
            self.changed.notify_all()

    def remove(self, resource: str, shown: Object) -> None:
        self.put(resource, shown, kind="DELETED")

    def all(self, resource: str) -> list[Object]:
        with self.changed:
            return [shown for (of, _), shown in self.objects.items() if of == resource]

    def compact(self) -> None:
        """Forget what has happened, here and elsewhere in the cluster, so that older versions are Gone."""
        with self.changed:
            self.version += 1
            self.oldest = self.version

    def fault(self, verb: str, resource: str, *, after: bool = False) -> Fault | None:
        """What goes wrong with this request."""
        with self.changed:
            for fault in self.faults:
                if (fault.verb, fault.resource, fault.after) == (verb, resource, after) and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None

    def create_job(self, manifest: Object) -> Object:
        """What API server and Job controller do with a new Job."""
        with self.changed:
            name = manifest["metadata"]["name"]
            self.created.append(manifest)
            try:
                kubernetes_validate.validate(manifest, VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(str(part) for part in error.path)
                raise Refused(422, f'Job.batch "{name}" is invalid: {where}: {error.message}') from error
            if self.job_quota:
                raise Refused(403, f'jobs.batch "{name}" is forbidden: {self.job_quota}')
            if ("jobs", name) in self.objects:
                raise Refused(409, f'jobs.batch "{name}" already exists')
            job = {**deepcopy(manifest), "status": {}}
            job["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            if self.suspended:
                suspended = {"type": "Suspended", "status": "True", "message": "no room in the queue"}
                job["status"] = {"conditions": [suspended]}
            self.put("jobs", job)
            if self.pod_quota:
                self._event(job, "FailedCreate", f'Error creating: pods "{name}-x" is forbidden: {self.pod_quota}')
            elif not self.suspended:
                self._create_pod(job)
            return job

    def delete_job(self, name: str, options: Object) -> Object:
        """As asked: the Job at once, its pods by the garbage collector in the background."""
        with self.changed:
            job = self.objects.get(("jobs", name))
            if job is None:
                raise Refused(404, f'jobs.batch "{name}" not found')
            if options.get("preconditions", {}).get("uid", job["metadata"]["uid"]) != job["metadata"]["uid"]:
                raise Refused(409, "the UID in the precondition does not match the UID in record")
            self.propagation.append(options.get("propagationPolicy"))
            self.remove("jobs", job)
            for pod in self.pods_of(job):
                self.kubelet.delete(pod)
            return job

    def pods_of(self, job: Object) -> list[Object]:
        return [
            pod for pod in self.all("pods") if pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] == job["metadata"]["uid"]
        ]

    def settle(self, pod: Object) -> None:
        """What the Job controller says when a pod has ended: nothing of a Job that is gone."""
        with self.changed:
            job = self.objects.get(("jobs", pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]))
            if job is None or job["metadata"]["uid"] != pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"]:
                return
            if pod["status"]["phase"] == "Succeeded":
                conditions = [{"type": "Complete", "status": "True"}]
            else:
                conditions = [
                    {
                        "type": "Failed",
                        "status": "True",
                        "reason": "BackoffLimitExceeded",
                        "message": "Job has reached the specified backoff limit",
                    }
                ]
            job["status"] = {"conditions": conditions}
            self.put("jobs", job)

    def _create_pod(self, job: Object) -> None:
        name, template = job["metadata"]["name"], job["spec"]["template"]
        own = {"batch.kubernetes.io/controller-uid": job["metadata"]["uid"], "batch.kubernetes.io/job-name": name}
        metadata = {
            "name": f"{name}-{uuid.uuid4().hex[:5]}", "uid": str(uuid.uuid4()), "creationTimestamp": now(),
            "labels": {**template["metadata"]["labels"], **own},
        }  # fmt: skip
        pod = {"kind": "Pod", "metadata": metadata, "spec": deepcopy(template["spec"]), "status": {"phase": "Pending"}}
        self.put("pods", pod)
        self.kubelet.start(pod)

    def event(self, about: Object, reason: str, message: str) -> None:
        self._event(about, reason, message)

    def _event(self, about: Object, reason: str, message: str) -> None:
        involved = {"uid": about["metadata"]["uid"]}
        metadata = {"name": uuid.uuid4().hex}
        self.put("events", {"metadata": metadata, "involvedObject": involved, "type": "Warning", "reason": reason, "message": message})


@contextmanager
def fake_cluster(folder: Path) -> Iterator[tuple[FakeCluster, Path]]:
    """A cluster that runs, and a kube config for it in `folder`."""
    cluster = FakeCluster()
    with Server(("127.0.0.1", 0), lambda *arguments: ApiHandler(cluster, *arguments)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield cluster, kube_config(folder, f"http://127.0.0.1:{server.server_port}")
        finally:
            with cluster.changed:
                cluster.closing = True
                cluster.changed.notify_all()
            cluster.kubelet.close()
            server.shutdown()
            thread.join()


class Server(ThreadingHTTPServer):
    """Clients break connections off: that is no news."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing."""


def kube_config(folder: Path, server: str, *, token: str = TOKEN) -> Path:
    """A file as kubectl reads it, with the context `test`."""
    path = folder / "kube_config"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": server}}],
                "users": [{"name": "test", "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            }
        ),
        encoding="utf-8",
    )  # fmt: skip
    return path


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stamp() -> str:
    """As a container runtime writes it: nine digits."""
    nanoseconds = time.time_ns()
    return f"{datetime.fromtimestamp(nanoseconds // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}Z"
