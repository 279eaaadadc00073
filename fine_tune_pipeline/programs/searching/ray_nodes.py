"""The nodes of the Ray cluster on which a search runs as a job: each trial is a task there with the resources of the place."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fine_tune_pipeline.programs.contracts import Contract
from fine_tune_pipeline.programs.reporting import PARENT_VARIABLE
from fine_tune_pipeline.programs.searching import carried_out
from fine_tune_pipeline.programs.searching.nodes import Ended, Order

if TYPE_CHECKING:
    from ray import ObjectRef

TASKS_VARIABLE = "FINE_TUNE_PIPELINE_RAY_TASKS"
"""By it the place `ray` tells a program what its tasks may have."""

END_SHARE, LAST_SHARE = 0.5, 0.8
"""Of the grace, in which this program itself has to end: for a trial to write down where it is, and for all tasks to end."""


class NotOnRay(RuntimeError):
    """Several trials are wanted at the same time where no Ray cluster has started the search."""


class RayTasks(Contract):
    """What each task of a program may have."""

    resources: dict[str, float] = Field(description="By Ray's names: CPU, GPU, memory in bytes, others as the cluster calls them.")
    grace_seconds: float = Field(description="From the moment the program is told to stop until it is killed.")


class RayNodes:
    """Hands programs to tasks; one that is lost is not tried again by Ray itself."""

    def __init__(self, tasks: RayTasks) -> None:
        import ray
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(carried_out)
        others = dict(tasks.resources)
        named = {"num_cpus": others.pop("CPU", 0), "num_gpus": others.pop("GPU", 0), "memory": int(others.pop("memory", 0)) or None}
        self._options: dict[str, Any] = {**named, "resources": others or None, "max_retries": 0}
        self._task = ray.remote(carried_out.carried_out)
        self._grace_seconds = tasks.grace_seconds
        self._running: dict[int, ObjectRef[tuple[int, str]]] = {}

    def start(self, order: Order) -> None:
        arguments = list(order.command), list(order.without), PARENT_VARIABLE, END_SHARE * self._grace_seconds
        self._running[order.number] = self._task.options(name=f"trial-{order.number}", **self._options).remote(*arguments)

    def ended(self, seconds: float) -> Mapping[int, Ended]:
        import ray
        from ray.exceptions import RayError

        if not self._running:
            return {}
        done, _ = ray.wait(list(self._running.values()), num_returns=1, timeout=seconds)
        found = {}
        for number in [number for number, task in self._running.items() if task in done]:
            try:
                found[number] = Ended(*ray.get(self._running.pop(number)))
            except RayError as error:
                found[number] = Ended(None, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
        return found

    def close(self) -> None:
        import ray

        left = list(self._running.values())
        for task in left:
            ray.cancel(task, force=False)
        if left:
            _, left = ray.wait(left, num_returns=len(left), timeout=LAST_SHARE * self._grace_seconds)
        for task in left:
            ray.cancel(task, force=True)
        self._running.clear()


@contextmanager
def ray_nodes() -> Iterator[RayNodes]:
    """Those of the cluster that has started this program as a job; all tasks are ended with this.

    Raises:
        NotOnRay: none has.
    """
    told = os.environ.get(TASKS_VARIABLE)
    if told is None:
        raise NotOnRay(
            "training.search.parallel: several trials at the same time are tasks of a Ray cluster, and this search was not started on one; "
            "run it with FINE_TUNE_PIPELINE_COMPUTE=ray (docs/compute_ray.md), or leave parallel out"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.ERROR)
    try:
        nodes = RayNodes(RayTasks.model_validate_json(told))
        try:
            yield nodes
        finally:
            nodes.close()
    finally:
        ray.shutdown()
