"""The output of a Ray job while it runs."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fine_tune_pipeline.resources.compute.job import PlaceFailure
from fine_tune_pipeline.resources.compute.output import Output
from fine_tune_pipeline.resources.compute.ray_jobs import Forgotten, Unreachable

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

AGAIN_SECONDS = 1.0
"""Wait before the stream is opened again after it broke."""

LAST_SECONDS = 10.0
"""Ray ends a stream up to two seconds after the job; a node that is gone never does."""


@contextmanager
def followed(client: "JobSubmissionClient", submission: str) -> Iterator[Output]:
    """The end of the job's output, complete once this is closed after the job has ended."""
    output, ended = Output(), threading.Event()
    loop = asyncio.new_event_loop()
    task = loop.create_task(_follow(client, submission, output, ended))
    thread = threading.Thread(target=_run, args=(loop, task), name="job-output", daemon=True)
    thread.start()
    try:
        yield output
    finally:
        ended.set()
        thread.join(LAST_SECONDS)
        if thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    loop.run_until_complete(asyncio.wait([task]))


async def _follow(client: "JobSubmissionClient", submission: str, output: Output, ended: threading.Event) -> None:
    """Ray streams a log from its start; what came before the stream broke is not passed on again."""
    import aiohttp

    passed = 0
    while True:
        place = 0
        try:
            async for text in client.tail_job_logs(submission):
                new = text[max(0, passed - place) :]
                place += len(text)
                passed = max(passed, place)
                output.take(new.encode("utf-8"))
            if ended.is_set() or client.get_job_status(submission).is_terminal():
                return
        except (Unreachable, Forgotten, PlaceFailure, RuntimeError, OSError, aiohttp.ClientError):
            # The job is watched elsewhere; its output can wait until the way there is open again.
            if ended.is_set():
                return
        await asyncio.sleep(AGAIN_SECONDS)
