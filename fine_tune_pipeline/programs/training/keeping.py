"""Writing down where a training is, and going on from there.

A checkpoint has the layout that transformers reads (`Trainer.train(resume_from_checkpoint=…)`), the curve so far, and `progress.json`.
With several processes the first one writes it; random generators are those of all.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from fine_tune_pipeline.programs.requests import CheckpointPolicy
from fine_tune_pipeline.programs.training.adapters import write
from fine_tune_pipeline.programs.training.checkpoints import Checkpoints, DamagedCheckpoint, NoRoomForCheckpoint, verify
from fine_tune_pipeline.programs.training.curve import CurveFile
from fine_tune_pipeline.programs.training.early_stopping import BestWeights
from fine_tune_pipeline.programs.training.progress import FILE, Progress
from fine_tune_pipeline.programs.training.randomness import States, restore, states
from fine_tune_pipeline.programs.training.sharding import number, on_cpu
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer

CURVE = "curve.jsonl"


class Keeper(TrainerCallback):
    """Writes a checkpoint when one is due, or when it is asked to.

    What it writes is the state after the last whole step: random generators and counts are noted there, and weights and optimizer do not
    change before the next step is whole. Every process of a team has one, and calls it at the same steps.
    """

    def __init__(
        self,
        trainer: CompletionTrainer,
        checkpoints: Checkpoints,
        *,
        policy: CheckpointPolicy,
        curve: CurveFile,
        progress: Callable[[int], Progress],
        say: Callable[[str], None],
        best: BestWeights | None = None,
        resumed: Path | None = None,
    ) -> None:
        self._best = best
        self._trainer = trainer
        self._team = trainer.team
        self._checkpoints = checkpoints
        self._policy = policy
        self._curve = curve
        self._progress = progress
        self._say = say
        self._resumed = resumed
        self._random = states()
        self._noted: Progress | None = None
        self._written_at = time.monotonic()
        self._written_step = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        """What was loaded has the rates of the try that wrote it, which may have been higher."""
        self._written_at, self._written_step = time.monotonic(), state.global_step
        optimizer, scheduler = self._trainer.optimizer, self._trainer.lr_scheduler
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert scheduler is not None
        for group, rate, factor in zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = rate * factor(scheduler.last_epoch)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        """The random generators of each process of a team, where it has left them; a loader has drawn from them since it was started."""
        resumed, self._resumed = self._resumed, None
        if resumed is None or self._team.size == 1:
            return
        kept = resumed / _random_states_file(self._team.rank, self._team.size)
        if kept.exists():
            restore(torch.load(kept, weights_only=False))
        else:
            self._say(f"{resumed} was written by another number of processes: what dropout draws is not what it would have drawn there")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **event: object
    ) -> None:
        """After every optimizer step."""
        if logs is None or "grad_norm" not in logs:
            return
        self._random = states()
        self._noted = self._progress(state.global_step)
        # Not after a step that was skipped: what a diverging training goes back to must have been well.
        well = self._noted.in_a_row == 0
        if well and state.global_step < state.max_steps and self._team.from_first(lambda: self._due(state.global_step)):
            self.write()

    def note_again(self) -> None:
        """After something more was measured of the same step: the checkpoint that may come next must know it."""
        if self._noted is not None:
            self._noted = self._progress(self._noted.step)

    def write(self) -> Path | None:
        """The state after the last whole step; None before the first one, or when there is no room or nothing worth keeping."""
        if self._noted is None:
            return None
        self._written_at, self._written_step = time.monotonic(), self._noted.step
        if not self._sound():
            self._say(f"no checkpoint of step {self._noted.step}: some weight is no number")
            return None
        assert self._trainer.optimizer is not None
        # These three need every process.
        random = self._team.everyone(self._random)
        weights = self._trainer.whole_weights()
        optimizer = on_cpu(self._trainer.optimizer.state_dict(), keep=self._team.first)
        return self._team.from_first(lambda: self._written(_Whole(random, weights, optimizer)))

    def _written(self, whole: "_Whole") -> Path | None:
        assert self._noted is not None
        try:
            return self._checkpoints.write(lambda folder: self._fill(folder, whole))
        except NoRoomForCheckpoint as error:
            self._say(f"step {self._noted.step}: {error}; the training goes on without, and an earlier one is kept: make room")
            return None

    def _due(self, step: int) -> bool:
        late = time.monotonic() - self._written_at >= 60 * self._policy.minutes
        return late or (self._policy.steps is not None and step - self._written_step >= self._policy.steps)

    def _sound(self) -> bool:
        learned = (parameter for parameter in self._trainer.trained.parameters() if parameter.requires_grad)
        return all(math.isfinite(number(parameter.detach().sum())) for parameter in learned)

    def _fill(self, folder: Path, whole: "_Whole") -> None:
        trainer = self._trainer
        assert self._noted is not None
        assert trainer.lr_scheduler is not None
        write(trainer.trained, folder, weights=whole.weights)
        torch.save(whole.optimizer, folder / OPTIMIZER_NAME)
        torch.save(trainer.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
        for rank, random in enumerate(whole.random):
            torch.save(random, folder / _random_states_file(rank, self._team.size))
        # The log is in the curve, and would make every checkpoint longer than the last.
        log, trainer.state.log_history = trainer.state.log_history, []
        try:
            trainer.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        finally:
            trainer.state.log_history = log
        if self._best is not None:
            self._best.copy_to(folder)
        self._curve.copy(folder / CURVE)
        self._noted.write(folder / FILE)


class CheckpointOfAnotherModel(ValueError):
    """The model has other parameters than the one of which was written down what it had learned."""


def learning(trainer: CompletionTrainer) -> str:
    """Names and shapes of all parameters, and which of them learn, as a hash."""
    shapes = sorted((name, tuple(each.shape), each.requires_grad) for name, each in trainer.trained.named_parameters())
    return hashlib.sha256(repr(shapes).encode("utf-8")).hexdigest()


def check_fits(found: "Found", trainer: CompletionTrainer) -> None:
    """Refuse a checkpoint before anything of it is loaded.

    Raises:
        CheckpointOfAnotherModel: says what to do.
    """
    if found.checkpoint is not None and found.progress.learning != learning(trainer):
        raise CheckpointOfAnotherModel(
            f"{found.checkpoint}: the model of which it was written had other parameters than the one that was loaded now, so the model or "
            f"a library was changed since; put back what was there, or remove {found.checkpoint.parent} and train from the begin"
        )


class _Whole(NamedTuple):
    """What all processes together know: their random generators by rank; weights, None where the first has them all; the optimizer."""

    random: Sequence[States]
    weights: dict[str, Tensor] | None
    optimizer: dict[str, Any]


def _random_states_file(rank: int, size: int) -> str:
    """transformers reads the state of a process that is alone; what it does with those of several suits a CPU only."""
    return "rng_state.pth" if size == 1 else f"random-{rank}-of-{size}.pth"


class Found:
    """The newest whole checkpoint of the same work, and its progress; without one, the beginning."""

    def __init__(self, checkpoint: Path | None, progress: Progress) -> None:
        self.checkpoint = checkpoint
        self.progress = progress

    @property
    def curve(self) -> Path | None:
        return None if self.checkpoint is None else self.checkpoint / CURVE


def found(checkpoints: Checkpoints, *, request_sha256: str, say: Callable[[str], None]) -> Found:
    """Where to go on. A damaged checkpoint is named and an older one taken; those of other work are removed."""
    for checkpoint in reversed(checkpoints.all()):
        try:
            verify(checkpoint)
        except DamagedCheckpoint as error:
            say(f"{error}; it is not used")
            checkpoints.forget(checkpoint)
            continue
        progress = Progress.of(checkpoint)
        if progress.request_sha256 == request_sha256:
            return Found(checkpoint, progress)
        checkpoints.forget(checkpoint)
    return Found(None, Progress(request_sha256=request_sha256))
