"""Programs on a Kubernetes cluster, each in a Job of its own that is removed when it has ended."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import dagster as dg

from fine_tune_pipeline.resources.compute.accelerators import accelerators
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, PlaceFailure
from fine_tune_pipeline.resources.compute.kubernetes_cluster import FIRST_TRIES, AlreadyThere, Cluster
from fine_tune_pipeline.resources.compute.kubernetes_course import Course
from fine_tune_pipeline.resources.compute.kubernetes_log import PodLog
from fine_tune_pipeline.resources.compute.kubernetes_manifest import REQUEST, TRY, Manifest, job_manifest
from fine_tune_pipeline.resources.compute.kubernetes_pod import Shown, failed, name_of
from fine_tune_pipeline.resources.compute.kubernetes_refusals import NameTaken, Unreachable
from fine_tune_pipeline.resources.compute.kubernetes_settings import KubernetesSettings

CLAIMS = 20
"""A name that is still taken after so many looks stays so."""

GRACES = 3
"""A pod that is being deleted is waited for so many times its grace; after it, its node is gone."""


class Kubernetes(KubernetesSettings):
    """A namespace of a Kubernetes cluster: a program runs in a Job of its own, on storage that Dagster's pod mounts too."""

    def execute(self, job: Job) -> Ended:
        manifest = job_manifest(self, job, attempt=uuid.uuid4().hex)
        with closing(Cluster(self, tries=FIRST_TRIES)) as cluster:
            ended = self._executed(cluster, manifest, adopt=job.request.resumable)
        looked_at_anew(job)
        limited = ended.cause == Cause.TIMEOUT and self.timeout_seconds is not None
        return self.timed_out(ended.tail) if limited else ended

    def inventory(self) -> Inventory:
        memory = round(self.memory_gib * (1 << 30))
        cpu = Device(kind="cpu", name="CPU", memory_bytes=memory, bfloat16=self.cpu_bfloat16)
        gpus = accelerators(self.gpu_name, self.gpus, self.gpu_memory_gib) if self.gpus else ()
        if self.gpu_bfloat16 is not None:
            gpus = tuple(gpu.model_copy(update={"bfloat16": self.gpu_bfloat16}) for gpu in gpus)
        return Inventory(place=self.kind, devices=gpus or (cpu,), cpu_cores=max(1, int(self.cpus)), memory_bytes=memory)

    @property
    def lease(self) -> float:
        return self.lease_seconds

    def handed_on(self) -> tuple[str, ...]:
        """Those of `secrets`: the cluster hands them on from its own Secrets, whether they are set here or not."""
        missing = sorted(set(super().handed_on()) - self.secrets.keys())
        if missing:
            dg.get_dagster_logger().warning(
                f"Kubernetes: {', '.join(missing)}: set here, and not handed on. If programs need them, name a Secret and its key in "
                "compute.place.secrets; if not, take them out of compute.place.hand_on."
            )
        return tuple(sorted(self.secrets))

    def _executed(self, cluster: Cluster, manifest: Manifest, *, adopt: bool) -> Ended:
        log = PodLog(cluster, self)
        with self._held(cluster, manifest, adopt=adopt) as held:
            try:
                return Course(cluster, held, log, self).run()
            except Unreachable as error:
                left = f"Job {name_of(held)} may still run: the next try takes it over; without one it ends after {self.lease_seconds:g} s."
                return Ended(Cause.LOST, tail=log.tail(), said=f"{error} {left}")

    @contextmanager
    def _held(self, cluster: Cluster, manifest: Manifest, *, adopt: bool) -> Iterator[Shown]:
        """The Job, new or adopted; whatever happens inside, neither it nor a pod of it is left afterwards."""
        with ExitStack() as stack:
            stack.callback(self._removed, cluster, manifest["metadata"]["name"])
            try:
                job = self._claimed(cluster, manifest, adopt=adopt)
            except PlaceFailure:
                # Nothing was made, or it cannot be reached.
                stack.pop_all()
                raise
            cluster.tries = self.tries
            yield job

    def _claimed(self, cluster: Cluster, manifest: Manifest, *, adopt: bool) -> Shown:
        """A new Job, or the one of an earlier try that was killed, so that its work is paid for once."""
        name, notes = manifest["metadata"]["name"], manifest["metadata"]["annotations"]
        for _ in range(CLAIMS):
            try:
                return cluster.create_job(manifest)
            except AlreadyThere:
                found = cluster.job(name)
            if found is None:
                continue
            theirs = found["metadata"].get("annotations") or {}
            if theirs.get(REQUEST) != notes[REQUEST]:
                raise NameTaken(f"Job {name} of namespace {self.namespace} is not of this work: remove it, or name another namespace.")
            usable = not failed(found) and "deletionTimestamp" not in found["metadata"]
            # With our own mark it is the one that we have just made, without being told so.
            if usable and (adopt or theirs.get(TRY) == notes[TRY]):
                dg.get_dagster_logger().info(f"Kubernetes: Job {name} is taken over from an earlier try")
                return found
            self._ended(cluster, found)
            time.sleep(self.retry_seconds)
        raise NameTaken(f"Job {name} of namespace {self.namespace} is being deleted, and does not go: see its finalizers.")

    def _removed(self, cluster: Cluster, name: str) -> None:
        cluster.tries = FIRST_TRIES
        try:
            job = cluster.job(name)
            if job is not None:
                self._ended(cluster, job)
        except PlaceFailure as error:
            dg.get_dagster_logger().warning(
                f"Kubernetes: Job {name} could not be removed: {error} Its program ends by itself after {self.lease_seconds:g} s; "
                f"`kubectl delete job --namespace {self.namespace} {name}` removes it."
            )

    def _ended(self, cluster: Cluster, job: Shown) -> None:
        """Delete the Job, and wait until its pods are gone."""
        cluster.delete_job(job)
        until = time.monotonic() + GRACES * self.grace_seconds
        with closing(cluster.pods(job)) as changes:
            for pods in changes:
                if not pods:
                    return
                if time.monotonic() > until:
                    dg.get_dagster_logger().warning(
                        f"Kubernetes: pod {name_of(pods[0])} is being deleted, and its node does not say that it is gone"
                    )
                    return


def looked_at_anew(job: Job) -> None:
    """Open what the program wrote: a network file system else remembers for a while that a file was not there, or how long it was."""
    for folder in filter(Path.is_dir, (job.folder, *job.writes)):
        files = [folder / name for name in os.listdir(folder)]
        for file in files if folder == job.folder else ():
            if file.is_file():
                file.open("rb").close()
