"""Trainings in processes that a test may kill: forked from one that has torch loaded, so that a start takes no ten seconds."""

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = ["fine_tune_pipeline.programs.train", "fine_tune_pipeline_tests.programs.killing"]


def started(work: Callable[..., object], *arguments: Any) -> BaseProcess:
    """A process that does `work`, a function of a module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def train_to_the_end(request: str) -> None:
    """As the program does, on the request in a file."""
    import sys

    from fine_tune_pipeline.programs import train

    sys.argv = ["train", "--request", request]
    train.main()


def files_of(folder: Path) -> Sequence[str]:
    """Names, sorted."""
    return sorted(path.name for path in folder.iterdir())
