"""A program that hands tasks to the nodes of its Ray cluster as a search does, without what makes a search slow to start."""

import sys

from fine_tune_pipeline.programs.reporting import finish, parse, session
from fine_tune_pipeline.programs.requests import Contract, Request
from fine_tune_pipeline.programs.searching.nodes import Ended, Order
from fine_tune_pipeline.programs.searching.ray_nodes import ray_nodes
from fine_tune_pipeline.programs.training.preemption import Preemption

TASK = """
import os, signal, sys, threading
from pathlib import Path
from fine_tune_pipeline.programs.reporting import watch_parent
output, number = Path(sys.argv[1]), sys.argv[2]
def told(*_):
    (output / f"{number}.told").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, told)
watch_parent()
print("task", number, flush=True)
seen = os.environ.get("OMP_NUM_THREADS"), "DAGSTER_PIPES_CONTEXT" in os.environ
(output / f"{number}.partial").write_text(f"{os.getpid()} {os.getppid()} {seen[0]} {seen[1]}")
os.replace(output / f"{number}.partial", output / f"{number}.begun")
while not (output / "go").exists():
    threading.Event().wait(0.05)
"""
"""Says that it runs and by whom; ends when it is told to go on, or to stop."""


class SpreadRequest(Request):
    """So many tasks at the same time."""

    module = "fine_tune_pipeline_tests.resources.compute.spread_program"
    at_once: int = 2


class SpreadResult(Contract):
    """How each has ended: its exit code, if there is one, and the last it said."""

    ended: dict[int, tuple[int | None, str]]


def main() -> None:
    preemption = Preemption()
    request = parse(SpreadRequest)
    with session(), ray_nodes() as nodes:
        preemption.listen()
        for number in range(request.at_once):
            command = [sys.executable, "-c", TASK, request.output, str(number)]
            nodes.start(Order(number, command, ("DAGSTER_PIPES_CONTEXT",)))
        ended: dict[int, Ended] = {}
        while len(ended) < request.at_once:
            ended |= nodes.ended(0.2)
        finish(request, SpreadResult(ended={number: (one.status, one.said) for number, one in ended.items()}))


if __name__ == "__main__":
    main()
