"""Step 6 at the provider: upload, create the job or adopt the one that runs, follow it, and keep the tuned model's name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
from openai.types.fine_tuning import FineTuningJob

from fine_tune_pipeline.programs.hosted.chat_rows import as_jsonl, training_row
from fine_tune_pipeline.programs.hosted.job import Order, cancel, create, follow, known_job, marked_job, note, tuned
from fine_tune_pipeline.programs.hosted.provider import ProviderError, connect, told
from fine_tune_pipeline.programs.hosted.requests import Checkpoint, HostedTrainRequest, HostedTrainResult, write_hosted
from fine_tune_pipeline.programs.hosted.watch import JobWatch
from fine_tune_pipeline.programs.reporting import Reporter, end_on_signals, finish, parse, session
from fine_tune_pipeline.programs.rows import read_rows
from fine_tune_pipeline.programs.training.tracked_run import TrackedRun, tracked_run


class JobFailed(ProviderError):
    """The provider gave the job up, mostly because of its files."""


class JobCancelled(ProviderError):
    """Somebody cancelled the job at the provider."""


def run(request: HostedTrainRequest, reporter: Reporter) -> HostedTrainResult:
    """Tune, and leave `adapter/` (the tuned model's name) and `curve.jsonl` in `request.output`. Interrupted, it cancels the job.

    Raises:
        NoKey, KeyRefused, QuotaUsedUp, TooBusy, ProviderDown, NotThere, RequestRefused: the provider did not do what was asked.
        JobFailed, JobCancelled: with the provider's own words.
    """
    order = _order(request)
    curve = Path(request.output) / "curve.jsonl"
    with (
        connect(request.hosted) as client,
        told(request.hosted, f"fine-tuning {request.hosted.model}"),
        tracked_run(request.tracking) as tracked,
    ):
        if tracked is not None:
            tracked.parameters(hosted=request.hosted, job=request.job)
        watch = JobWatch(curve, reporter=reporter, tracked=tracked)
        job, adopted = _followed(request, order, client, watch=watch, reporter=reporter)
        checkpoints = _checkpoints(client, job)
        _keep(tracked, curve)
    hosted = tuned(request.hosted, job)
    return HostedTrainResult(
        adapter=str(write_hosted(Path(request.output) / "adapter", hosted)),
        adapter_sha256=hosted.sha256,
        job_id=job.id,
        model=hosted.model,
        adopted=adopted,
        rows=order.train.count(b"\n"),
        steps=max((step for step, _ in watch.points), default=0),
        trained_tokens=job.trained_tokens,
        seconds=float((job.finished_at or job.created_at) - job.created_at),
        validation_losses=tuple(watch.validation_losses),
        checkpoints=checkpoints,
        curve=str(curve),
        mlflow_run_id=None if tracked is None else tracked.run_id,
    )


def _order(request: HostedTrainRequest) -> Order:
    files = (
        as_jsonl(training_row(row, format=request.job.format) for row in read_rows(path, text_fields=("id", "prompt", "completion")))
        for path in (request.train, request.validation)
    )
    train, validation = files
    return Order(use_case=request.use_case, model=request.hosted.model, job=request.job, train=train, validation=validation)


def _followed(
    request: HostedTrainRequest, order: Order, client: openai.OpenAI, *, watch: JobWatch, reporter: Reporter
) -> tuple[FineTuningJob, bool]:
    """The succeeded job, and whether an earlier run had created it."""
    state = Path(request.state)
    with _cancelled_with_us(client, order, reporter):
        found = known_job(client, order, state)
        job = found or create(client, order)
        note(job, order, state)
        reporter.log(
            f"{job.id}: {'adopted, an earlier run created it' if found else 'created'}; the tuned model will end in {order.suffix}"
        )
        ended = follow(client, job.id, hear=watch.hear, pause=request.poll_seconds)
    _refuse_lost(ended)
    return ended, found is not None


@contextmanager
def _cancelled_with_us(client: openai.OpenAI, order: Order, reporter: Reporter) -> Iterator[None]:
    """A run that is interrupted takes its job with it; one that is killed cannot, and the next run adopts the job."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        _cancel(client, order, reporter)
        raise


def _cancel(client: openai.OpenAI, order: Order, reporter: Reporter) -> None:
    try:
        # By its mark: the interrupt may have come before its id was known.
        job = marked_job(client, order)
        if job is not None:
            reporter.log(f"{job.id}: cancelled with the run; the provider says {cancel(client, job.id)}")
    except openai.OpenAIError as error:
        reporter.log(f"the job could not be cancelled and goes on at the provider ({error}); the next run adopts it")


def _refuse_lost(job: FineTuningJob) -> None:
    if job.status == "cancelled":
        raise JobCancelled(f"{job.id} was cancelled at the provider; materialize adapter again to start a new job")
    if job.status == "failed":
        error = job.error
        about = "" if error is None else f" ({error.code}{f', {error.param}' if error.param else ''}): {error.message}"
        raise JobFailed(f"{job.id} failed{about}; correct what it names, then materialize again: a new job is created")


def _checkpoints(client: openai.OpenAI, job: FineTuningJob) -> tuple[Checkpoint, ...]:
    """The models that the provider kept on the way, oldest first; none where it has no such route."""
    try:
        found = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    except openai.NotFoundError:
        return ()
    kept = (
        Checkpoint(
            step=each.step_number,
            model=each.fine_tuned_model_checkpoint,
            train_loss=each.metrics.train_loss,
            validation_loss=each.metrics.full_valid_loss or each.metrics.valid_loss,
        )
        for each in found
    )
    return tuple(sorted(kept, key=lambda checkpoint: checkpoint.step))


def _keep(tracked: TrackedRun | None, curve: Path) -> None:
    if tracked is not None:
        tracked.flush()
        tracked.keep(str(curve))


def main() -> None:
    """The command line."""
    request = parse(HostedTrainRequest)
    end_on_signals()
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
