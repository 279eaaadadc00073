"""A Ray cluster of two nodes on this machine, as the contract sees it."""

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.resources.compute.place import Place
from fine_tune_pipeline.resources.compute.ray import Ray
from fine_tune_pipeline_tests.resources.compute.stands import Stand, processes_with

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster
    from ray.job_submission import JobSubmissionClient

REPOSITORY = Path(__file__).parents[3]
STORE_BYTES = 80 << 20
"""Ray's least; nothing of ours is put there."""

WORKER = "worker"
"""A resource that only the second node has, whose accelerators are A100 by name."""


@functools.cache
def cluster() -> "Cluster":
    """Two nodes, the dashboard on the first; Ray ends them with this process."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "memory": 2 << 30, "object_store_memory": STORE_BYTES, "include_dashboard": True, "dashboard_port": 0}
    made = Cluster(initialize_head=True, head_node_args=head)
    labels = {"accelerator_type:A100": 1, WORKER: 2}
    made.add_node(num_cpus=2, num_gpus=1, memory=1 << 30, object_store_memory=STORE_BYTES, resources=labels)
    return made


def client() -> "JobSubmissionClient":
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(f"http://{cluster().webui_url}")


class RayStand(Stand):
    """The cluster, started once; its programs run on the second node, where no dashboard is."""

    def place(self, **settings: Any) -> Place:
        return ray_place(resources={WORKER: 1}, **settings)

    def left(self, folder: Path) -> list[str]:
        jobs = [f"job {job.submission_id} ({job.status})" for job in client().list_jobs() if str(folder) in job.entrypoint]
        return [*jobs, *processes_with(folder)]


def ray_place(**settings: Any) -> Ray:
    fixed = {"address": f"http://{cluster().webui_url}", "python": sys.executable, "cpus": 0.5, "grace_seconds": 1}
    return Ray(**{**fixed, "runtime_env": {"env_vars": {"PYTHONPATH": str(REPOSITORY)}}, **settings})
