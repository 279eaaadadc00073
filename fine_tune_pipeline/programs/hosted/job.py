"""A fine-tuning job at the provider: found again before it is created, so that nothing is paid for twice; followed; cancelled."""

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from fine_tune_pipeline.programs.hosted.provider import TRIES, may_pass
from fine_tune_pipeline.programs.hosted.requests import HostedJob, HostedModel, JobState

STATE_FILE = "job.json"
MARK = "fine_tune_pipeline"
"""Key of the metadata that carries a job's fingerprint."""

LOST = ("failed", "cancelled")
"""Ends after which a new job is worth its money."""

ENDED = ("succeeded", *LOST)

SUFFIX_CHARACTERS = 40
"""Of the tuned model's name; providers take between 18 and 64, and cut or refuse more."""

LONGEST_PAUSE_SECONDS = 60.0
SILENT_POLLS = 30
"""Looks at a running job that may fail one after the other, each after the client's own tries; the job goes on meanwhile."""

Wait = Callable[[float], None]


@dataclass(frozen=True)
class Order:
    """What a job is to be made of: two files for the provider, and the settings."""

    use_case: str
    model: str
    job: HostedJob
    train: bytes
    validation: bytes

    @property
    def fingerprint(self) -> str:
        """The same content and settings have the same, on every machine and in every run."""
        parts = [self.model.encode(), self.job.model_dump_json().encode(), self.train, self.validation]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]

    @property
    def suffix(self) -> str:
        """Of the tuned model's name: for people, and to find the job where the provider keeps no metadata."""
        name = self.use_case.replace("_", "-")[: SUFFIX_CHARACTERS - 9]
        return f"{name}-{self.fingerprint[:8]}"


def known_job(client: openai.OpenAI, order: Order, state: Path) -> FineTuningJob | None:
    """A job of the same order that runs, waits or has succeeded: by the id that an earlier run stored, else by its mark."""
    noted = _noted(state)
    if noted is not None and noted.fingerprint == order.fingerprint:
        try:
            job = client.fine_tuning.jobs.retrieve(noted.job_id)
        except openai.NotFoundError:
            # Deleted there, or another account's: it is looked for like one whose id was never stored.
            job = None
        if job is not None and job.status not in LOST:
            return job
    return marked_job(client, order)


def marked_job(client: openai.OpenAI, order: Order) -> FineTuningJob | None:
    """The newest job that carries the order's mark and is not lost."""
    found = (job for job in client.fine_tuning.jobs.list(limit=100) if _is_ours(job, order) and job.status not in LOST)
    return max(found, key=lambda job: job.created_at, default=None)


def create(client: openai.OpenAI, order: Order, *, wait: Wait = time.sleep) -> FineTuningJob:
    """Upload what is not there yet, and create the job exactly once, even when the answer to its creation is lost."""
    training, validation = (upload(client, order, part) for part in ("train", "validation"))
    once = client.with_options(max_retries=0)
    for number in range(1, TRIES + 1):
        try:
            return once.fine_tuning.jobs.create(
                model=order.model,
                training_file=training,
                validation_file=validation,
                method={"type": "supervised", "supervised": {"hyperparameters": _hyperparameters(order.job)}},
                seed=order.job.seed,
                suffix=order.suffix,
                metadata={MARK: order.fingerprint},
            )
        except openai.OpenAIError as error:
            if number == TRIES or not may_pass(error):
                raise
            wait(_pause(error, number))
        # The provider may have created it and only its answer was lost.
        if (found := marked_job(client, order)) is not None:
            return found
    raise AssertionError("the last try either returns or raises")


def upload(client: openai.OpenAI, order: Order, part: str) -> str:
    """The id of a file with this content: the one that is there, or a new one."""
    content: bytes = getattr(order, part)
    name = f"{order.use_case}-{part}-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    there = (file for file in client.files.list(purpose="fine-tune") if _is_same(file, name, content))
    found = next(there, None)
    return (found or client.files.create(file=(name, content), purpose="fine-tune")).id


def note(job: FineTuningJob, order: Order, state: Path) -> None:
    """Store the id, before anything else is done with the job."""
    JobState(job_id=job.id, fingerprint=order.fingerprint).write(state / STATE_FILE)


def follow(
    client: openai.OpenAI,
    job_id: str,
    *,
    hear: Callable[[FineTuningJob, list[FineTuningJobEvent]], None],
    pause: float,
    wait: Wait = time.sleep,
) -> FineTuningJob:
    """Look at the job until it has ended.

    Args:
        hear: called at every look, with the job and the events since the last, oldest first.
        pause: seconds between two looks.

    Raises:
        openai.OpenAIError: the provider was silent for too long, or refuses us; the job goes on there.
    """
    seen: set[str] = set()
    silent = 0
    while True:
        try:
            job = client.fine_tuning.jobs.retrieve(job_id)
            events = list(_new_events(client, job_id, seen))
        except openai.OpenAIError as error:
            silent += 1
            if silent >= SILENT_POLLS or not may_pass(error):
                raise
            wait(pause)
            continue
        silent = 0
        seen.update(event.id for event in events)
        hear(job, events[::-1])
        if job.status in ENDED:
            return job
        wait(pause)


def cancel(client: openai.OpenAI, job_id: str) -> str:
    """Cancel a job, and say in which state that left it; one that has ended meanwhile stays as it is."""
    try:
        return client.fine_tuning.jobs.cancel(job_id).status
    except openai.BadRequestError:
        return client.fine_tuning.jobs.retrieve(job_id).status


def tuned(hosted: HostedModel, job: FineTuningJob) -> HostedModel:
    """Where the tuned model is asked: at the same place, under its own name."""
    assert job.fine_tuned_model is not None
    return hosted.model_copy(update={"model": job.fine_tuned_model})


def _new_events(client: openai.OpenAI, job_id: str, seen: set[str]) -> Iterator[FineTuningJobEvent]:
    """Newest first, as the provider gives them, up to the first that is known."""
    for event in client.fine_tuning.jobs.list_events(job_id, limit=100):
        if event.id in seen:
            return
        yield event


def _hyperparameters(job: HostedJob) -> openai.types.fine_tuning.SupervisedHyperparametersParam:
    return {"n_epochs": job.epochs, "batch_size": job.batch_size, "learning_rate_multiplier": job.learning_rate_multiplier}


def _is_ours(job: FineTuningJob, order: Order) -> bool:
    """By metadata; where the provider drops them, by the suffix, which many give back."""
    marked = (job.metadata or {}).get(MARK)
    if marked is not None:
        return marked == order.fingerprint
    return (job.model_extra or {}).get("user_provided_suffix") == order.suffix


def _is_same(file: FileObject, name: str, content: bytes) -> bool:
    return file.filename == name and file.bytes == len(content) and file.status != "error"


def _noted(state: Path) -> JobState | None:
    path = state / STATE_FILE
    return JobState.read(path) if path.exists() else None


def _pause(error: openai.OpenAIError, number: int) -> float:
    """As the server asks, else doubled each time."""
    headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        if headers.get(name, "").isdigit():
            return min(int(headers[name]) / divisor, LONGEST_PAUSE_SECONDS)
    return min(2 ** (number - 1) * random.uniform(0.5, 1.0), LONGEST_PAUSE_SECONDS)
