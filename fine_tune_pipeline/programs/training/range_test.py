"""Looking for the learning rate before a training: a short run whose rate rises from step to step, with weights of its own.

The rate is a tenth of the one at which the smoothed loss is lowest, just before it rises (Smith, Cyclical Learning Rates, 2017; the rule of
fastai), and stays within a third and three times of the planned one: a few noisy steps do not overrule what many trainings have shown.

Nothing of the run is kept but its curve. With that rate written in the YAML, the training would be the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fine_tune_pipeline.programs.models import free_memory
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import Contract, TrainRequest
from fine_tune_pipeline.programs.training.batches import Row
from fine_tune_pipeline.programs.training.preemption import Interrupted, Preempted, Preemption
from fine_tune_pipeline.programs.training.progress import request_sha256
from fine_tune_pipeline.programs.training.range_steps import range_steps
from fine_tune_pipeline.programs.training.stall import StallWatch
from fine_tune_pipeline.programs.training.steadiness import Diverged
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer, Endurance, build_trainer

FILE = "range_test.json"

LOWEST, HIGHEST = 0.1, 100.0
"""Rates of the first and the last step, in planned ones: a tenth of the highest is well above the three times that may be taken."""

MEMORY = 0.8
"""Weight of the past in the smoothed loss: about five steps, an eighth of a decade of the rate at the most steps, and half of one at the
fewest."""

RISEN = 1.5
"""Times the lowest smoothed loss, above which the run ends: what comes then is known."""

BOUND = 3.0
"""Times the planned rate, and its reciprocal: what a search would look through."""


class RangePoint(Contract):
    """One step: loss in nats per labelled token, and smoothed."""

    learning_rate: float
    loss: float
    smoothed: float


class RangeTest(Contract):
    """What a range test has found: `learning_rate`, and why in words."""

    request_sha256: str
    planned: float
    learning_rate: float
    why: str
    points: tuple[RangePoint, ...]


@dataclass(frozen=True)
class Chosen:
    """A rate, and why."""

    learning_rate: float
    why: str


def rates(planned: float, *, steps: int) -> list[float]:
    """Of all steps, each by the same factor above the one before."""
    factor = HIGHEST / LOWEST
    return [planned * LOWEST * factor ** (step / (steps - 1)) for step in range(steps)]


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential mean of each loss and those before, corrected for having begun at nothing."""
    sums = accumulate(losses, lambda before, loss: MEMORY * before + (1 - MEMORY) * loss, initial=0.0)
    return [value / (1 - MEMORY**count) for count, value in enumerate(sums) if count]


def chosen(points: Sequence[RangePoint], *, planned: float) -> Chosen:
    """The rate that the points speak for; the planned one if there are none."""
    if not points:
        return Chosen(planned, "the first step could not be learned from; as planned")
    lowest = min(points, key=lambda point: point.smoothed).learning_rate
    tenth = float(f"{lowest / 10:.2g}")
    said = f"a tenth of {lowest:.2g}, where the smoothed loss is lowest"
    if tenth > planned * BOUND:
        return Chosen(planned * BOUND, f"{said}, would be {tenth:g}; {BOUND:g} times the planned {planned:g} is the most")
    if tenth < planned / BOUND:
        return Chosen(planned / BOUND, f"{said}, would be {tenth:g}; the planned {planned:g} divided by {BOUND:g} is the least")
    return Chosen(tenth, said)


class _Rising(TrainerCallback):
    """Sets the rate before every step, keeps its loss, and ends the run once the loss has risen."""

    def __init__(self, trainer: CompletionTrainer, *, planned: float, steps: int) -> None:
        self.points: list[RangePoint] = []
        self._trainer = trainer
        self._planned = planned
        self._rates = rates(planned, steps=steps)
        self._losses: list[float] = []

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        """Every group of parameters keeps its ratio to the others."""
        assert self._trainer.optimizer is not None
        factor = self._rates[state.global_step] / self._planned
        for group in self._trainer.optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **event: object
    ) -> None:
        """After every optimizer step; the loss is that of the weights before it."""
        if logs is None or "grad_norm" not in logs:
            return
        totals = self._trainer.take_totals()
        if totals is None:
            control.should_training_stop = True
            return
        self._losses.append(totals.loss)
        latest = smoothed(self._losses)[-1]
        self.points.append(RangePoint(learning_rate=self._rates[state.global_step - 1], loss=totals.loss, smoothed=latest))
        if latest > RISEN * min(point.smoothed for point in self.points):
            control.should_training_stop = True


def tested(
    request: TrainRequest, *, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, reporter: Reporter, preemption: Preemption
) -> RangeTest:
    """The range test of a training: the one that an earlier try has left, or a new one.

    Raises:
        OutOfMemory: even with the smallest micro-batch.
        Preempted: a signal has come; the next try begins anew.
    """
    path = Path(request.output) / FILE
    sha256 = request_sha256(request)
    if path.exists() and (earlier := RangeTest.read(path)).request_sha256 == sha256:
        return earlier
    planned = request.hyperparameters.learning_rate
    points = _run(request, rows=rows, tokenizer=tokenizer, reporter=reporter, preemption=preemption)
    free_memory()
    taken = chosen(points, planned=planned)
    found = RangeTest(request_sha256=sha256, planned=planned, learning_rate=taken.learning_rate, why=taken.why, points=tuple(points))
    found.write(path)
    reporter.log(f"range test of {len(points)} steps: learning rate {found.learning_rate:g}; {found.why}")
    return found


def with_rate(request: TrainRequest, rate: float) -> TrainRequest:
    """The same with another learning rate."""
    return request.model_copy(update={"hyperparameters": request.hyperparameters.model_copy(update={"learning_rate": rate})})


def _run(
    request: TrainRequest, *, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, reporter: Reporter, preemption: Preemption
) -> list[RangePoint]:
    steps = range_steps(request.hyperparameters, rows=len(rows))
    level = request.hyperparameters.model_copy(update={"schedule": "constant", "warmup_share": 0.0})
    stall = StallWatch(seconds=request.stall_seconds, stacks=Path(request.output) / "stacks.txt")
    endurance = Endurance(log=reporter.log, preemption=preemption, beat=stall.beat)
    with stall:
        trainer = build_trainer(
            request.model_copy(update={"hyperparameters": level}), rows=rows, tokenizer=tokenizer, max_steps=steps, endurance=endurance
        )
        rising = _Rising(trainer, planned=level.learning_rate, steps=steps)
        trainer.add_callback(rising)
        try:
            trainer.train()
        except Diverged:
            reporter.log("the range test ends here: its loss is no number any more")
        except Interrupted:
            raise Preempted from None
    return rising.points
