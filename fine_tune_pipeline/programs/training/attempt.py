"""One try of a training: from its beginning, or from the checkpoint that an earlier try has left, to its end."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.programs.models import peak_memory_bytes, weights_sha256
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import TrainRequest, TrainResult
from fine_tune_pipeline.programs.training.adapters import save, trainable_parameters
from fine_tune_pipeline.programs.training.answer_scores import stopping
from fine_tune_pipeline.programs.training.batches import Row
from fine_tune_pipeline.programs.training.checkpoints import Checkpoints
from fine_tune_pipeline.programs.training.curve import CurveFile, Validation, Validations, Watch
from fine_tune_pipeline.programs.training.early_stopping import BEST, BestWeights, EnoughLearned, Stopping
from fine_tune_pipeline.programs.training.expert_load import NoVisits, Shares, expert_shares, loads
from fine_tune_pipeline.programs.training.keeping import CURVE, Found, Keeper, check_fits, learning
from fine_tune_pipeline.programs.training.mates import watched
from fine_tune_pipeline.programs.training.preemption import Interrupted, Preempted, Preemption
from fine_tune_pipeline.programs.training.progress import Progress, Seen
from fine_tune_pipeline.programs.training.references import FILE as REFERENCES
from fine_tune_pipeline.programs.training.stall import StallWatch
from fine_tune_pipeline.programs.training.steadiness import Steadiness
from fine_tune_pipeline.programs.training.step_gradient import HALVINGS
from fine_tune_pipeline.programs.training.team import Team
from fine_tune_pipeline.programs.training.tracked_run import TrackedRun
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer, Endurance, Skipped, build_trainer

ADAPTER = "adapter"

STACKS = "stacks.txt"


@dataclass(frozen=True)
class Work:
    """What every try of one training has in common.

    Args:
        request: with the learning rate that is taken, and the placement of this process.
        sha256: of the identity of what was asked.
        range_test: its file, if there was one.
    """

    request: TrainRequest
    sha256: str
    team: Team
    reporter: Reporter
    preemption: Preemption
    tokenizer: PreTrainedTokenizerBase
    rows: Sequence[Row]
    held_out: Sequence[Row]
    checkpoints: Checkpoints
    range_test: Path | None = None

    @property
    def output(self) -> Path:
        return Path(self.request.output)

    @property
    def curve(self) -> Path:
        return self.output / CURVE if self.team.first else Path(os.devnull)

    @property
    def stacks(self) -> Path:
        return self.output / (STACKS if self.team.first else f"{self.team.rank}-{STACKS}")


class Attempt:
    """What one try needs.

    Args:
        at: where it starts.
        told: progress of which the skipped steps and the remedies were already reported.
        rate_scale: of the planned learning rate.
    """

    def __init__(self, work: Work, at: Found, *, told: Progress, rate_scale: float, tracked: TrackedRun | None) -> None:
        self._work = work
        self._at = at
        self._tracked = tracked
        self._continued_from = told.continued_from
        self._curve = CurveFile(work.curve, earlier=at.curve)
        self._before = len(self._curve.points)
        self._endurance = Endurance(
            log=work.reporter.log,
            rate_scale=rate_scale,
            halvings=HALVINGS if at.progress.halvings is None else at.progress.halvings,
            micro_batch=at.progress.micro_batch,
            steadiness=Steadiness(at.progress.losses, at.progress.in_a_row),
            skipped=[Skipped(*one) for one in told.skipped],
            remedies=list(told.remedies),
            preemption=work.preemption,
        )

    @property
    def got_on(self) -> bool:
        """Whether it made a step that could be learned from."""
        return len(self._curve.points) > self._before

    def told(self, progress: Progress, remedy: str) -> Progress:
        """`progress` with all that was skipped and done here, and now this."""
        self._endurance.remedy(remedy)
        return progress.model_copy(
            update={
                "skipped": self._skipped(),
                "remedies": tuple(self._endurance.remedies),
                "continued_from": (*self._continued_from, progress.step),
            }
        )

    def result(self, *, fixed_bytes: int) -> TrainResult:
        """Train to the end, and save; the first process of a team does so for all.

        Raises:
            CheckpointOfAnotherModel: what was written down does not fit.
            Diverged, OutOfMemory, Preempted: see `train.run`.
        """
        work, seen = self._work, self._at.progress.seen
        listeners = [] if self._tracked is None else [self._tracked]
        stall = StallWatch(seconds=work.request.stall_seconds, stacks=work.stacks)
        self._endurance.beat = stall.beat
        with stall, self._curve as curve:
            trainer = build_trainer(
                work.request,
                rows=work.rows,
                tokenizer=work.tokenizer,
                endurance=self._endurance,
                also=work.held_out,
                references=work.output / REFERENCES,
                team=work.team,
            )
            check_fits(self._at, trainer)
            watch = Watch(trainer, reporter=work.reporter, curve=curve, seen=seen, listeners=listeners)
            sample = Validation(work.held_out, training_rows=len(work.rows))
            stopping = self._stopping(trainer)
            validations = Validations(trainer, sample, endurance=self._endurance, seen=seen, listeners=listeners, stopping=stopping)
            if self._tracked is not None and not self._tracked.reopened:
                request = work.request
                self._tracked.parameters(technique=request.technique, hyperparameters=request.hyperparameters, placement=request.placement)
            before = self._shares(trainer, sample)
            self._train(trainer, watch, validations)
            if stopping is not None:
                stopping.weights.restore(trainer.trained)
            load = loads(trainer.trained, work.request.technique, before=before, after=self._shares(trainer, sample))
            adapter, weights = work.output / ADAPTER, trainer.whole_weights()
            if work.team.first:
                save(trainer.trained, adapter, tokenizer=work.tokenizer, weights=weights)
            if self._tracked is not None:
                _keep(self._tracked, adapter=adapter, curve=curve.path)
        progress = self._progress(trainer, watch, validations, step=trainer.state.global_step)
        result = work.team.from_first(lambda: _result(trainer, watch, progress, adapter=adapter, fixed_bytes=fixed_bytes))
        result = result.model_copy(update={"expert_load": load, "range_test": None if work.range_test is None else str(work.range_test)})
        return result if stopping is None else _stopped(result, stopping, trainer, validations)

    def _shares(self, trainer: CompletionTrainer, sample: Validation) -> Shares:
        """Where the tokens of the sample go, of the weights as they are; nothing, with a word, where that cannot be seen."""
        micro_batch, beat = trainer.gradient.micro_batch, self._endurance.beat
        try:
            if self._work.team.sharded:
                raise NoVisits("the model lies in parts")
            return expert_shares(trainer.trained, sample.rows, collate=trainer.collate, micro_batch=micro_batch, beat=beat)
        except NoVisits as error:
            self._work.reporter.log(f"the load of experts is not measured: {error}")
            return {}

    def _stopping(self, trainer: CompletionTrainer) -> Stopping | None:
        work = self._work
        wanted = work.request.hyperparameters.early_stopping
        if wanted is None:
            return None
        weights = BestWeights(work.checkpoints.folder / BEST)
        weights.take_from(self._at.checkpoint)
        return stopping(
            wanted,
            weights,
            request=work.request,
            rows=work.held_out,
            trainer=trainer,
            tokenizer=work.tokenizer,
            endurance=self._endurance,
            seen=self._at.progress.seen,
        )

    def _train(self, trainer: CompletionTrainer, watch: Watch, validations: Validations) -> None:
        work = self._work
        keeper = Keeper(
            trainer,
            work.checkpoints,
            policy=work.request.checkpoints,
            curve=self._curve,
            progress=lambda step: self._progress(trainer, watch, validations, step=step),
            say=work.reporter.log,
            best=None if validations.stopping is None else validations.stopping.weights,
            resumed=self._at.checkpoint,
        )
        validations.looked = keeper.note_again
        # In this order: a step is counted, then it may be written down, and what is lost by a signal while validating is made up.
        for callback in (watch, keeper, validations):
            trainer.add_callback(callback)
        checkpoint = self._at.checkpoint
        with work.preemption.guarded(), watched(work.team):
            try:
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            except EnoughLearned as outcome:
                work.reporter.log(str(outcome))
            except Interrupted:
                kept = keeper.write()
                what = "the next try begins anew" if kept is None else f"checkpoint {kept} is written, and the next try goes on from there"
                work.reporter.log(f"preempted after step {trainer.state.global_step}: {what}")
                raise Preempted from None

    def _progress(self, trainer: CompletionTrainer, watch: Watch, validations: Validations, *, step: int) -> Progress:
        endurance, passes = self._endurance, trainer.gradient.passes
        earlier = self._at.progress.seen
        seen = Seen(
            seconds=watch.seconds,
            cpu_seconds=watch.cpu_seconds,
            tokens=watch.tokens,
            labelled=watch.labelled,
            places=watch.places,
            passes=earlier.passes + passes.made,
            passes_rows=earlier.passes_rows + passes.rows,
            most_tokens=max(earlier.most_tokens, passes.most_tokens),
            most_labelled=max(earlier.most_labelled, passes.most_labelled),
            validation_losses=tuple(validations.losses),
            validation_figures=tuple(validations.figures),
            scores=() if validations.stopping is None else tuple(validations.stopping.scores),
        )
        return Progress(
            request_sha256=self._at.progress.request_sha256,
            learning=learning(trainer),
            step=step,
            seen=seen,
            micro_batch=trainer.gradient.micro_batch,
            halvings=trainer.gradient.halvings,
            rate_scale=endurance.rate_scale,
            losses=tuple(endurance.steadiness.losses),
            in_a_row=endurance.steadiness.in_a_row,
            skipped=self._skipped(),
            remedies=tuple(endurance.remedies),
            continued_from=self._continued_from,
            mlflow_run_id=None if self._tracked is None else self._tracked.run_id,
        )

    def _skipped(self) -> tuple[tuple[int, str], ...]:
        return tuple((one.step, one.why) for one in self._endurance.skipped)


def _keep(tracked: TrackedRun, *, adapter: Path, curve: Path) -> None:
    tracked.flush()
    tracked.keep(str(curve))
    tracked.keep(str(adapter), folder=ADAPTER)


def _stopped(result: TrainResult, stopping: Stopping, trainer: CompletionTrainer, validations: Validations) -> TrainResult:
    """With what early stopping did."""
    last, losses = trainer.state.max_steps, validations.losses
    return result.model_copy(
        update={
            "scores": tuple(stopping.scores),
            "best_step": stopping.standing(losses).step,
            "outcome": stopping.outcome(step=trainer.state.global_step, last=last, losses=losses),
        }
    )


def _result(trainer: CompletionTrainer, watch: Watch, progress: Progress, *, adapter: Path, fixed_bytes: int) -> TrainResult:
    seen = progress.seen
    return TrainResult(
        adapter=str(adapter),
        adapter_sha256=weights_sha256(adapter),
        steps=len(watch.curve.points),
        rows=len(trainer.rows),
        tokens=seen.tokens,
        labelled_tokens=seen.labelled,
        seconds=seen.seconds,
        tokens_per_second=seen.tokens / seen.seconds,
        first_loss=watch.curve.points[0].loss,
        final_loss=watch.final_loss(),
        validation_losses=seen.validation_losses,
        validation_figures=seen.validation_figures,
        peak_memory_bytes=peak_memory_bytes(),
        trainable_parameters=trainable_parameters(trainer.trained),
        curve=str(watch.curve.path),
        mlflow_run_id=progress.mlflow_run_id,
        fixed_memory_bytes=fixed_bytes if trainer.recipe.placement.device == "cpu" else 0,
        most_tokens=seen.most_tokens,
        most_labelled=seen.most_labelled,
        passes=seen.passes,
        passes_rows=seen.passes_rows,
        cpu_seconds=seen.cpu_seconds,
        padding_share=1 - seen.tokens / seen.places,
        micro_batch=trainer.gradient.micro_batch,
        skipped_steps=progress.skipped,
        remedies=progress.remedies,
        continued_from=progress.continued_from,
        request_sha256=progress.request_sha256,
        compiled_layers=trainer.compiled_layers,
        learning_rate=trainer.recipe.hyperparameters.learning_rate,
        processes=trainer.team.size,
    )
