"""Works on the parts of a step, several at a time: in processes of this machine, or as a Ray Data job on a cluster.

The work is a function of the package, named in the request, so that every place runs the same one.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

from fine_tune_pipeline.artifacts.parts import Part, cut, missing
from fine_tune_pipeline.programs.named_work import do_part, do_row
from fine_tune_pipeline.programs.parts_requests import PartsRequest, PartsResult
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session

Do = Callable[[Part], None]


def run(request: PartsRequest, reporter: Reporter) -> PartsResult:
    """Work on all parts that are not done yet.

    Raises:
        NotOurs: the function is not of this package.
    """
    started = time.monotonic()
    parts = cut(Path(request.source), rows=request.part_rows)
    waiting = missing(parts, Path(request.folder))
    rows, done = sum(part.rows for part in parts), sum(part.rows for part in parts) - sum(part.rows for part in waiting)
    what = request.function.rsplit(":", 1)[-1]
    reporter.progress(done, rows, what)
    do = partial(do_part, function=request.function, settings=json.dumps(request.settings, sort_keys=True), folder=request.folder)
    for part in _PLACES[request.engine](do, waiting, request):
        done += part.rows
        reporter.progress(done, rows, what, rows_per_second=done / (time.monotonic() - started))
    return PartsResult(parts=len(parts), resumed=len(parts) - len(waiting), seconds=round(time.monotonic() - started, 3))


def _in_processes(do: Do, parts: Sequence[Part], request: PartsRequest) -> Iterator[Part]:
    """In as many processes as the request says; they end with this one."""
    # One core is one process: more threads would only take turns.
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(
        max(1, min(request.workers, len(parts))), mp_context=get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        waiting = {pool.submit(do, part): part for part in parts}
        for done in as_completed(waiting):
            done.result()
            yield waiting[done]


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watchdog", daemon=True).start()


def _on_ray(do: Do, parts: Sequence[Part], request: PartsRequest) -> Iterator[Part]:
    """As rows of a Ray data set; every node reads and writes the same folders."""
    # Before the import: Ray reports its use to its makers by default.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    # By name: without an address Ray waits for the last cluster of this machine, which may have been killed.
    address = request.address or os.environ.get("RAY_ADDRESS") or "local"
    ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.from_items([asdict(part) for part in parts], override_num_blocks=max(1, len(parts)))
        for row in rows.map(partial(do_row, do=do)).iter_rows():
            yield Part(**row)
    finally:
        ray.shutdown()


_PLACES: dict[str, Callable[[Do, Sequence[Part], PartsRequest], Iterator[Part]]] = {"local": _in_processes, "ray": _on_ray}


def main() -> None:
    """Work as the request file says."""
    request = parse(PartsRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
