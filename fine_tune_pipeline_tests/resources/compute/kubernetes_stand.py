"""A Kubernetes cluster as the contract of places sees it."""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fine_tune_pipeline.resources.compute.kubernetes import Kubernetes
from fine_tune_pipeline_tests.resources.compute.fake_kubernetes import CLAIM, IMAGE, NAMESPACE, fake_cluster
from fine_tune_pipeline_tests.resources.compute.stands import Stand, processes_with

SETTINGS = {
    "context": "test", "namespace": NAMESPACE, "image": IMAGE, "python": sys.executable, "memory_gib": 0.5, "grace_seconds": 1,
    "retry_seconds": 0.01, "silence_seconds": 5, "start_seconds": 30, "volumes": {CLAIM: str(Path(tempfile.gettempdir()).resolve())},
}  # fmt: skip
"""Short waits; pods and we share the folder of temporary files."""


class KubernetesStand(Stand):
    """A cluster of the test's own."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self.cluster, self.kube_config = self._stack.enter_context(fake_cluster(Path(folder)))

    def place(self, **settings: Any) -> Kubernetes:
        return Kubernetes(**{**SETTINGS, "kube_config": str(self.kube_config), **settings})

    def left(self, folder: Path) -> list[str]:
        shown = [f"{kind} {one['metadata']['name']}" for kind in ("jobs", "pods") for one in self.cluster.all(kind)]
        return [*shown, *processes_with(folder)]

    def close(self) -> None:
        self._stack.close()
