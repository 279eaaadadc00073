"""What is seen of a training while it runs: every step as a point of the curve, and the loss on a sample of the validation rows."""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fine_tune_pipeline.programs.models import peak_memory_bytes
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.training.adapters import evaluate
from fine_tune_pipeline.programs.training.batches import Row
from fine_tune_pipeline.programs.training.early_stopping import Stopping
from fine_tune_pipeline.programs.training.progress import Seen
from fine_tune_pipeline.programs.training.step_gradient import StepGradient, StepTotals, flat
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer, Endurance

VALIDATIONS_PER_EPOCH = 3

GIB = 2**30


@dataclass(frozen=True)
class Point:
    """One optimizer step: `loss` in nats per labelled token, `gradient_norm` before clipping, `tokens_per_second` without padding,
    `padding_share` of what went through the model, the peak of memory so far.

    When answers are compared: `loss` in nats per row, the share of rows in which the preferred answer gained more, and how much more.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    padding_share: float
    memory_bytes: int
    reward_accuracy: float | None = None
    reward_margin: float | None = None

    def numbers(self) -> dict[str, float]:
        """All but the step, as far as there are."""
        return {name: value for name, value in asdict(self).items() if name != "step" and value is not None}


class Listener(Protocol):
    """Hears every number of a training, under the step after which it was measured."""

    def numbers(self, step: int, numbers: dict[str, float]) -> None: ...


class CurveFile:
    """JSONL of points, each on disk as soon as it is known. `points` are those of earlier tries, and then all."""

    def __init__(self, path: Path, *, earlier: Path | None = None) -> None:
        self.path = path
        self.points: list[Point] = []
        lines = [] if earlier is None else earlier.read_text(encoding="utf-8").splitlines()
        self.points = [Point(**json.loads(line)) for line in lines]

    def __enter__(self) -> "CurveFile":
        self._file = self.path.open("w", encoding="utf-8")
        self._file.writelines(_line(point) for point in self.points)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, point: Point) -> None:
        self.points.append(point)
        self._file.write(_line(point))
        self._file.flush()

    def copy(self, path: Path) -> None:
        """All points so far, for a checkpoint."""
        path.write_text("".join(_line(point) for point in self.points), encoding="utf-8")


def _line(point: Point) -> str:
    return json.dumps({"step": point.step, **point.numbers()}) + "\n"


class Validated(NamedTuple):
    """The loss on the sample, and what is told beside it."""

    loss: float
    figures: dict[str, float]


class Validation:
    """The loss on rows that are not trained on: always the same sample, so that its points can be compared.

    The sample grows with the training rows (a twenty-fourth of them, at least 64) and so costs about a twentieth of the training.
    """

    def __init__(self, rows: Sequence[Row], *, training_rows: int) -> None:
        size = min(len(rows), max(64, training_rows // 24))
        self.rows = sorted(random.Random(0).sample(list(rows), size), key=lambda row: row.length)

    @torch.no_grad()
    def loss(self, trainer: CompletionTrainer) -> Validated:
        """In the unit of the trainer's loss; no logits are kept.

        Raises:
            Interrupted: a signal wants the program to end.
        """
        gradient, wanted = trainer.gradient, trainer.loss
        micro_batch = trainer.recipe.placement.micro_batch
        evaluate(trainer.trained)
        ahead = gradient.meet(lambda: gradient.ahead(self.rows, micro_batch=micro_batch))
        begun = wanted.begun([number for each in ahead for number in each], self.rows)
        sums = gradient.meet(lambda: self._sums(gradient, micro_batch=micro_batch, begun=begun))
        if gradient.whole is not None:
            gradient.whole.part()
        trainer.trained.train()
        summed, *figures = (sum(column) for column in zip(*sums, strict=True))
        means = {name: figure / len(self.rows) for name, figure in zip(wanted.figures, figures, strict=True)}
        return Validated(summed / wanted.weight(self.rows), means)

    def _sums(self, gradient: StepGradient, *, micro_batch: int, begun: float) -> list[float]:
        """Loss and figures of this process' share of the rows."""
        sums = list[Tensor]()
        for each in gradient.team.passes(self.rows, micro_batch):
            batch = gradient.batched(gradient.loss.sequences(each.rows))
            with gradient.interruptible():
                seen = flat(gradient.seen(each.rows, batch, begun))
            if each.counts:
                sums.append(seen)
        return torch.stack(sums).sum(0).tolist() if sums else [0.0] * (1 + len(gradient.loss.figures))


class Watch(TrainerCallback):
    """Turns the trainer's steps into points of the curve and live progress."""

    def __init__(
        self,
        trainer: CompletionTrainer,
        *,
        reporter: Reporter,
        curve: CurveFile,
        seen: Seen,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.curve = curve
        self.seconds, self.cpu_seconds = seen.seconds, seen.cpu_seconds
        self.tokens, self.labelled, self.places = seen.tokens, seen.labelled, seen.places
        self._trainer = trainer
        self._reporter = reporter
        self._listeners = listeners
        self._mark = self._cpu_mark = self._rate = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        """The clock runs while a step is made."""
        self._mark, self._cpu_mark = time.perf_counter(), time.process_time()
        assert self._trainer.optimizer is not None
        self._rate = float(self._trainer.optimizer.param_groups[0]["lr"])

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **event: object
    ) -> None:
        """Called after every optimizer step, and once at the end with a summary that is not used."""
        if logs is None or "grad_norm" not in logs:
            return
        totals = self._trainer.take_totals()
        seconds = time.perf_counter() - self._mark
        self.seconds += seconds
        self.cpu_seconds += time.process_time() - self._cpu_mark
        if totals is not None:
            self._add(state, totals, logs, seconds=seconds)

    def _add(self, state: TrainerState, totals: StepTotals, logs: dict[str, float], *, seconds: float) -> None:
        self.tokens += totals.tokens
        self.labelled += totals.labelled
        self.places += totals.places
        point = Point(
            step=state.global_step,
            loss=totals.loss,
            learning_rate=self._rate,
            gradient_norm=logs["grad_norm"],
            tokens_per_second=totals.tokens / seconds,
            padding_share=1 - totals.tokens / totals.places,
            memory_bytes=peak_memory_bytes(),
            **totals.figures,
        )
        self.curve.add(point)
        numbers = point.numbers()
        for listener in self._listeners:
            listener.numbers(point.step, numbers)
        shown = {name: value for name, value in numbers.items() if name != "memory_bytes"}
        self._reporter.progress(
            point.step,
            state.max_steps,
            "training",
            **shown,
            memory_gib=point.memory_bytes / GIB,
            eta_seconds=self.seconds / state.global_step * (state.max_steps - state.global_step),
        )

    def final_loss(self) -> float:
        """The mean loss of the last steps: a quarter of all, at most ten. One step alone depends on the rows that it happened to see."""
        last = self.curve.points[-max(1, min(10, len(self.curve.points) // 4)) :]
        return sum(point.loss for point in last) / len(last)


class Validations(TrainerCallback):
    """The validation loss before training, some times in every epoch and at the end; one that an earlier try did not come to is made up.

    `stopping` judges the training by them; `looked` is called after each.
    """

    def __init__(
        self,
        trainer: CompletionTrainer,
        validation: Validation,
        *,
        endurance: Endurance,
        seen: Seen,
        listeners: Sequence[Listener] = (),
        stopping: Stopping | None = None,
    ) -> None:
        self.losses = list(seen.validation_losses)
        self.figures = list(seen.validation_figures)
        self.stopping = stopping
        self.looked: Callable[[], None] = lambda: None
        self._trainer = trainer
        self._validation = validation
        self._endurance = endurance
        self._listeners = listeners

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        """Where training starts from."""
        self._look(state)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **event: object
    ) -> None:
        """After every optimizer step."""
        if logs is not None and "grad_norm" in logs:
            self._look(state)

    def _look(self, state: TrainerState) -> None:
        step = state.global_step
        every = max(1, round(len(self._trainer.steps) / VALIDATIONS_PER_EPOCH))
        due = step % every == 0 or step == state.max_steps
        if due and all(step != earlier for earlier, _ in self.losses):
            self._measure(step)
        if self.stopping is not None:
            self.stopping.judge(step=step, last=state.max_steps, losses=self.losses)

    def _measure(self, step: int) -> None:
        loss, figures = self._validation.loss(self._trainer)
        self.losses.append((step, loss))
        if figures:
            self.figures.append((step, figures))
        beside = "".join(f", {name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
        self._endurance.log(f"validation loss {loss:.4f} {self._trainer.loss.unit}{beside} after step {step}")
        numbers = {"validation_loss": loss, **{f"validation_{name}": value for name, value in figures.items()}}
        if self.stopping is not None:
            numbers |= self.stopping.looked(self._trainer.trained, step=step, losses=self.losses)
        self.looked()
        for listener in self._listeners:
            listener.numbers(step, numbers)
