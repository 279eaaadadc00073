"""The life of a Ray job: how it is looked at, ended, and what Ray's word on its end means."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fine_tune_pipeline.resources.compute.job import Cause, Ended, PlaceFailure, signalled
from fine_tune_pipeline.resources.compute.ray_jobs import Forgotten, Unreachable, withdraw

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, PAUSE_GROWTH = 0.1, 2.0, 1.3
"""Between two looks at a job: short programs are seen at once, long ones cost the cluster little."""

PENDING_STOP_SECONDS = 5.0
"""A job that was told to stop and has not even begun by then waits for resources, and Ray would not end it."""

STOP_SECONDS = 60.0
"""Beyond the grace: for Ray to say that a job has ended, or to be reached again."""

NEVER_BEGUN = {
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE", "RUNTIME_ENV_SETUP_FAILURE",
    "JOB_ENTRYPOINT_COMMAND_START_ERROR",
}  # fmt: skip
"""Errors of a job that no second try mends."""

MEMORY_WORDS = ("low on memory", "memory pressure", "OutOfMemory", "OOM")
"""In what Ray says of a job that its memory monitor has killed."""


def looks() -> Iterator[float]:
    """The time of each look, by the monotonic clock; a pause between two."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield time.monotonic()
        time.sleep(pause)
        pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_SECONDS)


def ended_by(info: "JobDetails") -> Ended:
    """What has become of a job that has ended; the end of its output is not known here.

    Raises:
        PlaceFailure: it never began, and would not at a second try.
    """
    message, error = " ".join((info.message or "").split()), info.error_type or ""
    if info.status == "SUCCEEDED":
        return Ended(Cause.DONE, 0)
    if info.status == "STOPPED":
        return Ended(Cause.LOST, said="Somebody stopped the job on the cluster.")
    if error in NEVER_BEGUN:
        raise PlaceFailure(f"the Ray cluster could not start the program ({error}): {message}")
    if info.driver_exit_code is not None:
        return Ended(Cause.ERROR, signalled(info.driver_exit_code))
    if any(word in message for word in MEMORY_WORDS):
        return Ended(Cause.OUT_OF_MEMORY, said=f"Ray says: {message}")
    return Ended(Cause.LOST, said=f"Ray says: {message}")


@dataclass(frozen=True)
class Patience:
    """How a job is ended: SIGINT, `grace_seconds` later SIGKILL; where that cannot be told it, its lease ends it.

    One that has not begun is withdrawn by a job that `python`, which has Ray, runs on the head.
    """

    python: str
    grace_seconds: float
    lease_seconds: float

    @property
    def by_lease(self) -> str:
        return f"What still runs there ends by itself within {self.lease_seconds:g} s."


def end(client: "JobSubmissionClient", submission: str, patience: Patience) -> None:
    """Stop a job that has not ended, and wait until it has.

    Raises:
        PlaceFailure: it goes on all the same.
    """
    began, told, withdrawn, said = time.monotonic(), False, False, ""
    for now in looks():
        try:
            status = client.get_job_info(submission).status
            if status.is_terminal():
                return
            if not told:
                told = client.stop_job(submission)
            elif status == "PENDING" and not withdrawn and now - began > PENDING_STOP_SECONDS:
                withdrawn = True
                _withdraw(client, submission, patience)
            said = f"it is {status}"
        except Forgotten:
            return
        except Unreachable as error:
            said = str(error)
        if now - began > patience.grace_seconds + STOP_SECONDS:
            raise PlaceFailure(
                f"the Ray job {submission} cannot be ended ({said}). {patience.by_lease} `ray job stop {submission}` asks again"
            )


def _withdraw(client: "JobSubmissionClient", submission: str, patience: Patience) -> None:
    helper = withdraw(client, submission, python=patience.python)
    for _ in looks():
        if client.get_job_info(helper).status.is_terminal():
            break
    client.delete_job(helper)


def forget(client: "JobSubmissionClient", submission: str) -> None:
    """Take an ended job off the cluster's list; one that is out of reach stays there, and does nothing."""
    try:
        client.delete_job(submission)
    except (Forgotten, Unreachable, RuntimeError) as error:
        sys.stderr.write(f"the ended Ray job {submission} stays on the cluster's list: {error}\n")
