"""The node of the cluster for tests: it runs the command of a pod as a process of this machine."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from fine_tune_pipeline_tests.resources.compute.fake_kubernetes import FakeCluster

IMAGE_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")
"""What an image would set; nothing else of our environment reaches a pod."""

REPOSITORY = Path(__file__).parents[3]
"""Where an image would have the package and its tests."""

POLL_SECONDS = 0.05
KIBI = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}

Pod = dict[str, Any]


@dataclass
class Log:
    """Lines of one pod with their times; `over` when no more come."""

    text: list[bytes] = field(default_factory=list)
    over: bool = False


class Kubelet:
    """Starts pods and ends them."""

    def __init__(self, cluster: "FakeCluster") -> None:
        self._cluster = cluster
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self.logs: dict[str, Log] = {}
        self.silent: set[str] = set()
        """Pods whose node says nothing any more."""
        self.slow = False
        """Pods that are to be deleted are ended only when someone watches, or after their grace."""

    def hold(self) -> None:
        """Let a stream hang for a moment."""
        self._closed.wait(POLL_SECONDS)

    def start(self, pod: Pod) -> None:
        """What scheduler and kubelet do with a new pod."""
        waits = self._waits(pod)
        if waits is None:
            self._run(self._process, pod)
        else:
            pod["status"] = {"phase": "Pending", **waits}
            self._cluster.put("pods", pod)

    def delete(self, pod: Pod) -> None:
        """SIGTERM now and SIGKILL after the grace; the pod is gone when its process is."""
        with self._cluster.changed:
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            pod["metadata"]["deletionGracePeriodSeconds"] = pod["spec"]["terminationGracePeriodSeconds"]
            self._cluster.put("pods", pod)
            process = self._processes.get(pod["metadata"]["name"])
            if process is None or process.poll() is not None:
                self._cluster.remove("pods", pod)
                return
        self._run(self._terminate, pod, process)

    def evict(self, pod: Pod, *, condition: dict[str, str], status: dict[str, str]) -> None:
        """End a pod for the node's sake."""
        with self._cluster.changed:
            pod["status"] = {**pod["status"], **status, "conditions": [{"type": "DisruptionTarget", "status": "True", **condition}]}
        self._kill(pod)

    def lose_node(self, pod: Pod) -> None:
        """The node is silent: the pod is to be deleted, and nobody says that it is gone."""
        taint = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
        }
        with self._cluster.changed:
            self.silent.add(pod["metadata"]["name"])
            pod["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 1}
            pod["status"] = {**pod["status"], "conditions": [taint]}
            self._cluster.put("pods", pod)
        self._kill(pod)

    def close(self) -> None:
        """Nothing of it is left."""
        self._closed.set()
        for process in self._processes.values():
            _signal(process, signal.SIGKILL)
        for thread in self._threads:
            thread.join()

    def _run(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name="kubelet")
        self._threads.append(thread)
        thread.start()

    def _waits(self, pod: Pod) -> dict[str, Any] | None:
        """Why a pod cannot start, as its status says it."""
        cluster, spec = self._cluster, pod["spec"]
        container = spec["containers"][0]
        for volume in spec["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in cluster.claims:
                return _unscheduled(f'0/1 nodes are available: persistentvolumeclaim "{claim}" not found.')
        if int(container["resources"]["limits"].get("nvidia.com/gpu", 0)) > 0:
            return _unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
        if container["image"] not in cluster.images:
            return _waiting("ImagePullBackOff", f'Back-off pulling image "{container["image"]}": not found')
        if " " in container["image"]:
            return _waiting("InvalidImageName", f'Failed to apply default image tag "{container["image"]}"')
        for variable in container["env"]:
            of = variable.get("valueFrom", {}).get("secretKeyRef")
            if of is not None and (of["name"], of["key"]) not in cluster.secrets:
                return _waiting("CreateContainerConfigError", f'secret "{of["name"]}" not found')
        return None

    def _process(self, pod: Pod) -> None:
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        process = subprocess.Popen(
            container["command"], env=self._environment(container), start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
        )  # fmt: skip
        log = self.logs.setdefault(name, Log())
        with self._cluster.changed:
            self._processes[name] = process
            if "deletionTimestamp" in pod["metadata"]:
                _signal(process, signal.SIGKILL)
            pod["status"] = {"phase": "Running", "containerStatuses": [{"name": "program", "state": {"running": {}}}]}
            self._cluster.put("pods", pod)
        done = threading.Event()
        reasons: list[str] = []
        self._run(self._watched, pod, process, reasons, done)
        self._take(process, log)
        process.wait()
        done.set()
        self._over(pod, process.returncode, reasons, log)

    def _take(self, process: subprocess.Popen[bytes], log: Log) -> None:
        assert process.stdout is not None
        from fine_tune_pipeline_tests.resources.compute.fake_kubernetes import stamp

        with process.stdout as stream:
            for line in stream:
                with self._cluster.changed:
                    log.text.append(stamp().encode("ascii") + b" " + line)
                    self._cluster.changed.notify_all()

    def _over(self, pod: Pod, returncode: int, reasons: list[str], log: Log) -> None:
        code = 128 - returncode if returncode < 0 else returncode
        with self._cluster.changed:
            log.over = True
            if pod["metadata"]["name"] in self.silent:
                log.over = False
                return
            reason = "OOMKilled" if "OOMKilled" in reasons else "Completed" if code == 0 else "Error"
            state = {"terminated": {"exitCode": code, "reason": reason}}
            status = {"phase": "Succeeded" if code == 0 else "Failed", "containerStatuses": [{"name": "program", "state": state}]}
            if "DeadlineExceeded" in reasons:
                status |= {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline"}
            pod["status"] = {**pod["status"], **status}
            self._cluster.put("pods", pod)
            self._cluster.settle(pod)
            if "deletionTimestamp" in pod["metadata"]:
                self._cluster.remove("pods", pod)

    def _watched(self, pod: Pod, process: subprocess.Popen[bytes], reasons: list[str], done: threading.Event) -> None:
        """The pod's deadline, and its memory's limit as the kernel keeps it."""
        limit = _bytes(pod["spec"]["containers"][0]["resources"]["limits"]["memory"])
        end = time.monotonic() + pod["spec"].get("activeDeadlineSeconds", float("inf"))
        while not done.wait(POLL_SECONDS):
            if _resident_bytes(process) > limit:
                reasons.append("OOMKilled")
            elif time.monotonic() > end:
                reasons.append("DeadlineExceeded")
            else:
                continue
            _signal(process, signal.SIGKILL)
            return

    def _terminate(self, pod: Pod, process: subprocess.Popen[bytes]) -> None:
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        if self.slow:
            watches = self._cluster.used["watch", "pods"]
            with self._cluster.changed:
                self._cluster.changed.wait_for(lambda: self._cluster.used["watch", "pods"] > watches, timeout=grace)
        # To the first process of the container only, and then to all.
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
        _signal(process, signal.SIGKILL)

    def _kill(self, pod: Pod) -> None:
        _signal(self._processes[pod["metadata"]["name"]], signal.SIGKILL)

    def _environment(self, container: dict[str, Any]) -> dict[str, str]:
        image = {name: os.environ[name] for name in IMAGE_ENVIRONMENT if name in os.environ}
        plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        referred = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one}
        secret = {name: self._cluster.secrets[of["name"], of["key"]] for name, of in referred.items()}
        return {"PYTHONPATH": str(REPOSITORY), **image, **plain, **secret}


def _unscheduled(message: str) -> dict[str, Any]:
    return {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}


def _waiting(reason: str, message: str) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "program", "state": {"waiting": {"reason": reason, "message": message}}}]}


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * KIBI[quantity[-2:]]


def _resident_bytes(process: subprocess.Popen[bytes]) -> int:
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To all that the process has started, even if it has ended itself."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
