"""Step 6 as a program: train a base model by full tuning, LoRA or QLoRA, and keep the adapter.

Broken off at any moment, it goes on from its last checkpoint and ends with the adapter that it would have ended with. A launcher such as
torchrun may start it several times for one request: the processes share the rows of every step.
"""

import shutil
from contextlib import suppress
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.programs.models import held_memory_bytes, load_tokenizer
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import RESULT, Reporter, finish, parse_parallel, session
from fine_tune_pipeline.programs.requests import TrainRequest, TrainResult
from fine_tune_pipeline.programs.rows import read_rows
from fine_tune_pipeline.programs.tokenizer_fit import model_limits
from fine_tune_pipeline.programs.training.attempt import Attempt, Work
from fine_tune_pipeline.programs.training.batches import TEXT_FIELDS, check_rows
from fine_tune_pipeline.programs.training.checkpoints import Checkpoints
from fine_tune_pipeline.programs.training.keeping import Found, found
from fine_tune_pipeline.programs.training.preemption import Preempted, Preemption
from fine_tune_pipeline.programs.training.preference_rows import Learned, every_answer, learned_rows
from fine_tune_pipeline.programs.training.progress import request_sha256
from fine_tune_pipeline.programs.training.range_test import FILE as RANGE_TEST
from fine_tune_pipeline.programs.training.range_test import tested, with_rate
from fine_tune_pipeline.programs.training.references import FILE as REFERENCES
from fine_tune_pipeline.programs.training.row_checks import refuse_unlearnable
from fine_tune_pipeline.programs.training.steadiness import Diverged
from fine_tune_pipeline.programs.training.step_gradient import OutOfMemory
from fine_tune_pipeline.programs.training.team import ALONE, Team, check_together, joined
from fine_tune_pipeline.programs.training.tracked_run import tracked_run

CHECKPOINTS = "checkpoints"

HALVED_RATES = 3
"""Times that a diverging training is tried again with half the rate; an eighth of what was planned is another plan."""


def run(request: TrainRequest, reporter: Reporter, preemption: Preemption | None = None, *, team: Team = ALONE) -> TrainResult:
    """Train, and leave `adapter/` and `curve.jsonl` in `request.output`; checkpoints stay beside them until `forget`.

    Args:
        request: what is asked for, the same in every process of the team.
        reporter: tells the world, in the first one.
        preemption: by signals.
        team: the processes that train together.

    Raises:
        BadRows, RowsTooLong, NoLabelledTokens, NoComparisons: the data cannot be learned from whole.
        LossNotFinite: the untrained model has no loss.
        LossNotTheModels: the architecture is not known well enough.
        Diverged: at the planned rate and at its halves.
        OutOfMemory: even with the smallest micro-batch.
        Preempted: a signal has come; a checkpoint is written.
        NotTogether, NotInParts: a setting, the technique or the model does not go with fsdp2.
        MateLost: another process has ended.
    """
    check_together(request.hyperparameters, team)
    sha256 = request_sha256(request)
    request = request.model_copy(update={"placement": team.own(request.placement)})
    if request.placement.threads is not None:
        torch.set_num_threads(request.placement.threads)
    fixed_bytes = held_memory_bytes()
    tokenizer = load_tokenizer(request.model)
    learned, held_out = (_rows(path, request, tokenizer, reporter) for path in (request.train, request.validation))
    preemption = preemption or Preemption()
    range_test = None
    if request.hyperparameters.range_test:
        test = tested(request, rows=learned.rows, tokenizer=tokenizer, reporter=reporter, preemption=preemption)
        range_test = Path(request.output) / RANGE_TEST
        request = with_rate(request, test.learning_rate)
    checkpoints = Checkpoints(Path(request.output) / CHECKPOINTS, keep=request.checkpoints.keep, writes=team.first)
    work = Work(request, sha256, team, reporter, preemption, tokenizer, learned.rows, held_out.rows, checkpoints, range_test)
    return _trained(work, fixed_bytes=fixed_bytes).model_copy(update={"without_comparison": learned.left_out})


def _rows(path: str, request: TrainRequest, tokenizer: PreTrainedTokenizerBase, reporter: Reporter) -> Learned:
    examples = read_rows(path, text_fields=TEXT_FIELDS, unique=("id",))
    wanted = request.hyperparameters
    found = learned_rows(examples, source=path, tokenizer=tokenizer, format=request.format, hyperparameters=wanted)
    refuse_unlearnable(every_answer(found.rows), source=path, tokenizer=tokenizer, limits=model_limits(request.model))
    check_rows(found.rows, source=path, max_length=wanted.max_length)
    if found.left_out:
        reporter.log(found.said())
    return found


def _trained(work: Work, *, fixed_bytes: int) -> TrainResult:
    """Tries until one comes to the end; each that diverges is followed by one with half the rate, from where it was still well."""
    at = _found(work)
    if at.checkpoint is not None:
        work.reporter.log(f"goes on after step {at.progress.step}, where an earlier try has left a checkpoint")
        at.progress = at.progress.model_copy(update={"continued_from": (*at.progress.continued_from, at.progress.step)})
    scale, told = at.progress.rate_scale, at.progress
    with tracked_run(work.request.tracking if work.team.first else None, earlier=at.progress.mlflow_run_id) as tracked:
        while True:
            attempt = Attempt(work, at, told=told, rate_scale=scale, tracked=tracked)
            try:
                return attempt.result(fixed_bytes=fixed_bytes)
            except Diverged as error:
                scale /= 2
                if scale < 1 / 2**HALVED_RATES:
                    raise Diverged(f"{error}; the same at {scale * 2:g} of the planned rate") from error
                at = _found(work, leaving_out=None if attempt.got_on else at.checkpoint)
                told = attempt.told(at.progress, f"{error}; once more from step {at.progress.step}, at {scale:g} of the planned rate")


def _found(work: Work, *, leaving_out: Path | None = None) -> Found:
    """Where to go on: the first process looks, for all."""

    def look() -> Found:
        if leaving_out is not None:
            work.checkpoints.forget(leaving_out)
        return found(work.checkpoints, request_sha256=work.sha256, say=work.reporter.log)

    return work.team.from_first(look)


def answered(request: TrainRequest) -> bool:
    """Whether an earlier try of the same work has come to its end."""
    path = Path(request.output) / RESULT
    return path.exists() and TrainResult.read(path).request_sha256 == request_sha256(request)


def main() -> None:
    """The command line."""
    preemption = Preemption()
    preemption.listen()
    request, parallel = parse_parallel(TrainRequest)
    quiet_libraries()
    with joined(device=request.placement.device, parallel=parallel) as team, session(speaks=team.first) as reporter:
        done = team.from_first(lambda: answered(request))
        if not team.first:
            if not done:
                _follow(request, reporter, preemption, team)
            return
        if done:
            reporter.log(f"an earlier try has finished this training; its result is in {request.output}")
        else:
            finish(request, run(request, reporter, preemption, team=team))
        # Last: until the result is on the disk, they are all there is.
        shutil.rmtree(Path(request.output) / CHECKPOINTS, ignore_errors=True)
        (Path(request.output) / REFERENCES).unlink(missing_ok=True)


def _follow(request: TrainRequest, reporter: Reporter, preemption: Preemption, team: Team) -> None:
    """What another process than the first does. It ends without a word where the first one says why: a launcher ends all processes when
    one has failed, and the first has still to write."""
    with suppress(Preempted, Diverged, OutOfMemory):
        run(request, reporter, preemption, team=team)


if __name__ == "__main__":
    main()
