"""The way of one Job from its start to its end, as its pod shows it."""

import time
from collections.abc import Sequence
from contextlib import closing

import dagster as dg

from fine_tune_pipeline.resources.compute.job import Ended
from fine_tune_pipeline.resources.compute.kubernetes_cluster import Cluster
from fine_tune_pipeline.resources.compute.kubernetes_log import PodLog
from fine_tune_pipeline.resources.compute.kubernetes_pod import (
    HOPELESS,
    Shown,
    Waiting,
    condition,
    ended,
    name_of,
    over,
    running,
    settled,
    waiting,
)
from fine_tune_pipeline.resources.compute.kubernetes_refusals import NeverStarted, NotAllowed
from fine_tune_pipeline.resources.compute.kubernetes_settings import KubernetesSettings


class Course:
    """Follows a Job until nothing more will come of it."""

    def __init__(self, cluster: Cluster, job: Shown, log: PodLog, settings: KubernetesSettings) -> None:
        self._cluster = cluster
        self._job = job
        self._log = log
        self._settings = settings
        self._pod: Shown | None = None
        self._why: Waiting | None = None
        self._start_until = time.monotonic() + settings.start_seconds
        self._gone_until: float | None = None

    def run(self) -> Ended:
        """How its program ended; its output is taken while it runs.

        Raises:
            NeverStarted: it did not run in time.
        """
        with closing(self._cluster.pods(self._job)) as changes:
            for pods in changes:
                if self._finished(_newest(pods)):
                    break
        return ended(self._pod, self._cluster.job(name_of(self._job)), self._log.tail())

    def _finished(self, pod: Shown | None) -> bool:
        if pod is None:
            return self._pod is not None or self._without_pod()
        self._pod = pod
        if over(pod):
            self._log.rest(name_of(pod))
            return True
        if running(pod):
            self._log.follow(name_of(pod))
        elif "deletionTimestamp" not in pod["metadata"]:
            self._starting(waiting(pod))
        return self._lingers(pod)

    def _without_pod(self) -> bool:
        """Whether there will never be one; a Job that was just made has none yet."""
        job = self._cluster.job(name_of(self._job))
        if job is None or settled(job):
            return True
        suspended = condition(job, "Suspended")
        refused = self._warnings(job)
        if suspended is not None:
            self._starting(Waiting("Suspended", suspended.get("message") or ""))
        else:
            self._starting(Waiting("FailedCreate", refused[-1]) if refused else Waiting("Pending", "it has no pod yet"))
        return False

    def _starting(self, why: Waiting) -> None:
        if why != self._why:
            dg.get_dagster_logger().info(f"Kubernetes: Job {name_of(self._job)} waits: {why}")
        self._why = why
        if why.reason in HOPELESS or time.monotonic() > self._start_until:
            warnings = self._warnings(self._pod) if self._pod is not None else []
            seen = f" Its last warning: {warnings[-1]}." if warnings else ""
            raise NeverStarted(
                f"Job {name_of(self._job)} of namespace {self._settings.namespace} did not start within "
                f"{self._settings.start_seconds:g} s. {why.sentence}{seen} {why.remedy}"
            )

    def _warnings(self, of: Shown) -> list[str]:
        try:
            return self._cluster.warnings(of)
        except NotAllowed as error:
            return [str(error)]

    def _lingers(self, pod: Shown) -> bool:
        """Whether a pod that someone else deletes is waited for no longer: its node is gone, and will not say that it has ended."""
        if "deletionTimestamp" not in pod["metadata"]:
            return False
        if self._gone_until is None:
            grace = pod["metadata"].get("deletionGracePeriodSeconds") or 0
            self._gone_until = time.monotonic() + grace + self._settings.grace_seconds
        return time.monotonic() > self._gone_until


def _newest(pods: Sequence[Shown]) -> Shown | None:
    return max(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "", default=None)
