"""`make demo`: the built-in use case through all eight steps, by the door that CI uses; the figures at the end as one JSON line."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.foreground import INTERRUPTED, running, signals_interrupt

USE_CASE = "support_triage"
SAMPLE_SECONDS = 0.5


def run_demo(*, store: Store, processes: Callable[[], list[int]], stop: Callable[[], object], keep: bool) -> int:
    """Materialize every asset of the built-in use case, print its figures, stop what was started.

    Args:
        store: where the artifacts lie afterwards.
        processes: pids of the endpoint, which outlives the run and so is not among our children.
        stop: ends the endpoint.
        keep: leave the endpoint running.

    Returns:
        The exit code of the command line: 0; 1 when a step or a blocking check failed; 130 when it was interrupted.
    """
    started = time.monotonic()
    try:
        with signals_interrupt(), peak_memory(processes) as memory:
            status = materialize_all()
        if status == 0:
            print(json.dumps(figures(store, seconds=time.monotonic() - started, peak_bytes=memory.peak_bytes)))
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if not keep:
            stop()
    return status


def materialize_all() -> int:
    """The command that the README gives for CI."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "fine_tune_pipeline.definitions"]
    with running([*command, "--select", f'key:"{USE_CASE}/*"']) as process:
        return process.wait()


def figures(store: Store, *, seconds: float, peak_bytes: int) -> dict[str, Any]:
    """What the demo reached, read from the artifacts."""
    report = store.current(USE_CASE, "evaluation_report")
    numbers = report.json("report.json")
    tuned = numbers["means"]["fine_tuned"]
    return {
        "n": numbers["n"],
        "intent_accuracy": tuned["field_match.intent"],
        "exact_match": tuned["exact_match"],
        "base_few_shot": numbers["means"]["base_few_shot"]["exact_match"],
        "gain_low": round(numbers["gain_low"], 3),
        "gain_high": round(numbers["gain_high"], 3),
        "valid_json": tuned["valid_json"],
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(peak_bytes / 2**30, 2),
        "endpoint_equals_evaluation": store.current(USE_CASE, "endpoint").metadata["endpoint_equals_evaluation"] == 1.0,
        "report": os.path.relpath(report.file("report.html")),
    }


class Memory:
    """The largest sum of resident memory over a set of processes that was seen."""

    def __init__(self) -> None:
        self.peak_bytes = 0

    def sample(self, pids: list[int]) -> None:
        """Shared pages count once for each process, so the sum is never too small."""
        self.peak_bytes = max(self.peak_bytes, sum(map(_resident_bytes, pids)))


@contextmanager
def peak_memory(others: Callable[[], list[int]]) -> Iterator[Memory]:
    """Sample this process, its descendants and `others` while the block runs."""
    memory, done = Memory(), threading.Event()

    def watch() -> None:
        here = psutil.Process()
        while not done.wait(SAMPLE_SECONDS):
            tree = [here.pid, *(child.pid for child in here.children(recursive=True))]
            memory.sample(list({*tree, *others()}))

    thread = threading.Thread(target=watch, name="peak-memory", daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def _resident_bytes(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0


def descendants(pid: int) -> list[int]:
    """A process and all below it; empty when it is gone."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []
