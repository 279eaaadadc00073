"""What is seen of a training while it runs: every step as a point of the curve, and the loss on a sample of the validation rows."""

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fine_tune_pipeline.programs.adapters import evaluate
from fine_tune_pipeline.programs.batches import Collate, Row, as_records
from fine_tune_pipeline.programs.losses import batch_nll
from fine_tune_pipeline.programs.models import peak_memory_bytes
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.trainer import CompletionTrainer, LossNotFinite, StepTotals

VALIDATIONS_PER_EPOCH = 3

GIB = 2**30


@dataclass(frozen=True)
class Point:
    """One optimizer step: `loss` in nats per labelled token, `tokens_per_second` without padding, the peak of memory so far."""

    step: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    memory_bytes: int


class Listener(Protocol):
    """Hears every number of a training, under the step after which it was measured."""

    def numbers(self, step: int, numbers: dict[str, float]) -> None: ...


class CurveFile:
    """JSONL of points, each on disk as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "CurveFile":
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, point: Point) -> None:
        self._file.write(json.dumps(asdict(point)) + "\n")
        self._file.flush()


class Validation:
    """The loss on rows that are not trained on: always the same sample, so that its points can be compared.

    The sample grows with the training rows (a twenty-fourth of them, at least 64) and so costs about a twentieth of the training.
    """

    def __init__(self, rows: Sequence[Row], *, training_rows: int, micro_batch: int, collate: Collate) -> None:
        size = min(len(rows), max(64, training_rows // 24))
        self.rows = sorted(random.Random(0).sample(list(rows), size), key=lambda row: len(row.input_ids))
        self._micro_batch = micro_batch
        self._collate = collate

    @torch.no_grad()
    def loss(self, model: torch.nn.Module) -> float:
        """Nats per labelled token; no logits are kept."""
        evaluate(model)
        device = next(model.parameters()).device
        total = 0.0
        for first in range(0, len(self.rows), self._micro_batch):
            batch = self._collate(as_records(self.rows[first : first + self._micro_batch]))
            on_device = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
            total += float(batch_nll(model, on_device))
        model.train()
        return total / sum(row.labelled for row in self.rows)


class Watch(TrainerCallback):
    """Turns the trainer's events into points, validation losses and live progress."""

    def __init__(
        self,
        trainer: CompletionTrainer,
        *,
        reporter: Reporter,
        curve: CurveFile,
        validation: Validation,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.points: list[Point] = []
        self.validation_losses: list[tuple[int, float]] = []
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.tokens = 0
        self.labelled = 0
        self.curve = curve
        self._trainer = trainer
        self._reporter = reporter
        self._validation = validation
        self._listeners = listeners
        self._mark = self._cpu_mark = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        """Measure where training starts from."""
        self._validate(0)
        self._mark, self._cpu_mark = time.perf_counter(), time.process_time()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **event: object
    ) -> None:
        """Called after every optimizer step, and once at the end with a summary that is not used.

        Raises:
            LossNotFinite: the gradient overflowed although the loss did not.
        """
        if logs is None or "grad_norm" not in logs:
            return
        totals = self._trainer.take_totals()
        if not math.isfinite(logs["grad_norm"]):
            raise LossNotFinite(
                f"step {state.global_step}: the gradient's norm is {logs['grad_norm']}, with a loss of {totals.nll / totals.labelled:.4g}; "
                "lower training.learning_rate, or write training.dtype: float32"
            )
        seconds = time.perf_counter() - self._mark
        self.cpu_seconds += time.process_time() - self._cpu_mark
        self._add(state, totals, seconds=seconds, learning_rate=logs["learning_rate"])
        every = max(1, round(self._trainer.batches.steps / VALIDATIONS_PER_EPOCH))
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            self._validate(state.global_step)
        self._mark, self._cpu_mark = time.perf_counter(), time.process_time()

    def _add(self, state: TrainerState, totals: StepTotals, *, seconds: float, learning_rate: float) -> None:
        self.seconds += seconds
        self.tokens += totals.tokens
        self.labelled += totals.labelled
        point = Point(
            step=state.global_step,
            loss=totals.nll / totals.labelled,
            learning_rate=learning_rate,
            tokens_per_second=totals.tokens / seconds,
            memory_bytes=peak_memory_bytes(),
        )
        self.points.append(point)
        self.curve.add(point)
        numbers = {name: value for name, value in asdict(point).items() if name != "step"}
        for listener in self._listeners:
            listener.numbers(point.step, numbers)
        self._reporter.progress(
            point.step,
            state.max_steps,
            "training",
            loss=point.loss,
            learning_rate=learning_rate,
            tokens_per_second=point.tokens_per_second,
            memory_gib=point.memory_bytes / GIB,
        )

    def _validate(self, step: int) -> None:
        loss = self._validation.loss(self._trainer.trained)
        self.validation_losses.append((step, loss))
        for listener in self._listeners:
            listener.numbers(step, {"validation_loss": loss})
        self._reporter.log(f"validation loss {loss:.4f} nats per token after step {step}")

    def final_loss(self) -> float:
        """The mean loss of the last steps: a quarter of all, at most ten. One step alone depends on the rows that it happened to see."""
        last = self.points[-max(1, min(10, len(self.points) // 4)) :]
        return sum(point.loss for point in last) / len(last)
