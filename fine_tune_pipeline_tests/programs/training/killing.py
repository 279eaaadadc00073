"""Trainings in processes that a test may kill: forked from one that has torch loaded, so that a start takes no ten seconds."""

import multiprocessing
import random
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fine_tune_pipeline_tests.waiting import wait_until

PRELOADED = ["fine_tune_pipeline.programs.train", "fine_tune_pipeline_tests.programs.training.killing"]


def started(work: Callable[..., object], *arguments: Any) -> BaseProcess:
    """A process that does `work`, a function of a module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def train_to_the_end(request: str, *more: str) -> None:
    """As the program does, on the request in a file, with more words on its command line."""
    import sys

    from fine_tune_pipeline.programs import train

    sys.argv = ["train", "--request", request, *more]
    train.main()


def files_of(folder: Path) -> Sequence[str]:
    """Names, sorted."""
    return sorted(path.name for path in folder.iterdir())


def killed_at_random(output: Path, *, times: int, most_steps: int) -> int:
    """Start the training of `output/request.json` again and again, and kill it at some moment; how many were running then."""
    draw, running = random.Random(0), 0
    for _ in range(times):
        process = started(train_to_the_end, str(output / "request.json"))
        some = points_of(output) + draw.randrange(most_steps)
        wait_until(lambda: points_of(output) >= some or process.exitcode is not None, what="some steps")  # noqa: B023
        process.join(draw.uniform(0.0, 0.3))
        running += process.exitcode is None
        process.kill()
        process.join()
    return running


def points_of(output: Path) -> int:
    """Steps in the curve so far."""
    curve = output / "curve.jsonl"
    return len(curve.read_text(encoding="utf-8").splitlines()) if curve.exists() else 0
