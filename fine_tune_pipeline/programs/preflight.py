"""Step 5 as a program: one real training step on the longest batch, where the training will run, and what stands in its way."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fine_tune_pipeline.programs.adapters import trainable_parameters
from fine_tune_pipeline.programs.batches import Row, over_long, shown_ids, tokenised_rows
from fine_tune_pipeline.programs.machine import cpu_cores, device_exists, device_name, disk_free_bytes, memory, versions
from fine_tune_pipeline.programs.models import bfloat16_speedup, load_tokenizer, peak_memory_bytes
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, end_on_sigterm, finish, parse, session
from fine_tune_pipeline.programs.requests import PreflightRequest, PreflightResult
from fine_tune_pipeline.programs.shown_rows import part_tokens, preview
from fine_tune_pipeline.programs.trainer import CompletionTrainer, LossNotFinite, LossNotTheModels, build_trainer

GIB = 2**30

TEST = "test"
"""The part that no training sees."""

MEMORY_SHARE = 0.9
"""Of the free memory, what a training may use: batches of later epochs and the evaluation need a little more than the measured step."""

WORKING_DISK_BYTES = 200 * 2**20
"""Curve, tokenizer and the tracking copy, beside the weights that are written."""


@dataclass(frozen=True)
class Step:
    """An optimizer step: `tokens` without padding, `loss` in nats per labelled token, `written_bytes` of the weights to save."""

    seconds: float
    tokens: int
    loss: float
    written_bytes: int


class StepClock(TrainerCallback):
    """Times every optimizer step, batches included."""

    def __init__(self, trainer: CompletionTrainer) -> None:
        self.steps: list[Step] = []
        self._trainer = trainer
        self._mark = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        self._mark = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: object) -> None:
        seconds = time.perf_counter() - self._mark
        totals = self._trainer.take_totals()
        # Adapters and fully trained models are written in float32.
        written = 4 * trainable_parameters(self._trainer.trained)
        self.steps.append(Step(seconds, totals.tokens, totals.nll / totals.labelled, written))


def run(request: PreflightRequest, reporter: Reporter) -> PreflightResult:
    """Measure, and say in `problems` what would stop the training, each with what to do.

    Raises:
        BadRows: the file of rows cannot be read at all.
    """
    if request.placement.threads is not None:
        torch.set_num_threads(request.placement.threads)
    device = request.placement.device
    exists = device_exists(device)
    before = memory(device)
    tokenizer = load_tokenizer(request.model)
    parts = _parts(request, tokenizer)
    rows = [row for name, part in parts.items() if name != TEST for row in part]
    problems = _row_problems(rows, max_length=request.hyperparameters.max_length)
    step = None
    if not exists:
        problems.append(
            f"device {device} is not here (torch sees {torch.cuda.device_count()} CUDA devices); use device: cpu, or another machine"
        )
    elif longest := _longest(rows, request=request):
        reporter.log(f"preflight: two training steps on the {len(longest)} longest rows, the second one timed")
        step, failure = _measure(request, longest)
        problems += [failure] if failure else []
    peak = peak_memory_bytes()
    free_disk = disk_free_bytes(request.output)
    problems += _room_problems(step, peak=peak, available=before.available, free_disk=free_disk)
    lengths = sorted(len(row.input_ids) for row in rows)
    return PreflightResult(
        device=device_name(device),
        versions=versions(),
        cpu_cores=cpu_cores(),
        memory_total_bytes=before.total,
        memory_available_bytes=before.available,
        disk_free_bytes=free_disk,
        rows=len(rows),
        longest_tokens=lengths[-1],
        over_long=tuple(over_long(rows, max_length=request.hyperparameters.max_length)),
        tokens_p50=int(statistics.median_low(lengths)),
        tokens_p95=lengths[int(0.95 * (len(lengths) - 1))],
        batch_rows=min(request.placement.micro_batch, request.hyperparameters.effective_batch),
        step_seconds=step.seconds if step else 0.0,
        tokens_per_second=step.tokens / step.seconds if step else 0.0,
        peak_memory_bytes=peak,
        loss=step.loss if step else 0.0,
        bfloat16_speedup=bfloat16_speedup(device if exists else "cpu"),
        parts=tuple(part_tokens(name, part, max_length=request.hyperparameters.max_length) for name, part in parts.items()),
        preview=preview(parts["train"], tokenizer=tokenizer),
        problems=tuple(problems),
    )


def _parts(request: PreflightRequest, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Row]]:
    paths = {"train": request.train, "validation": request.validation, TEST: request.test}
    return {
        name: tokenised_rows(path, tokenizer=tokenizer, format=request.format, loss_on=request.hyperparameters.loss_on)
        for name, path in paths.items()
        if path is not None
    }


def _row_problems(rows: Sequence[Row], *, max_length: int) -> list[str]:
    problems = []
    # Some over-long rows are no problem of the place: whether so many may be left out is the use case's to say.
    if len(over_long(rows, max_length=max_length)) == len(rows):
        longest = max(len(row.input_ids) for row in rows)
        problems.append(f"all {len(rows)} rows are longer than max_length {max_length}; raise training.max_length to {longest}")
    if empty := [row.id for row in rows if not row.labelled]:
        problems.append(f"{len(empty)} of {len(rows)} rows have no token to learn from: {shown_ids(empty)}; give them a completion")
    return problems


def _longest(rows: Sequence[Row], *, request: PreflightRequest) -> list[Row]:
    """The rows of one optimizer step that needs the most memory and time: the longest that training would accept."""
    wanted = request.hyperparameters
    fitting = [row for row in rows if len(row.input_ids) <= wanted.max_length and row.labelled]
    return sorted(fitting, key=lambda row: -len(row.input_ids))[: wanted.effective_batch]


def _measure(request: PreflightRequest, rows: Sequence[Row]) -> tuple[Step | None, str | None]:
    """Two real steps: the loss of the first, the time of the second, since the first also warms up. Or what went wrong."""
    try:
        trainer = build_trainer(request, rows=rows, tokenizer=load_tokenizer(request.model), max_steps=2)
        clock = StepClock(trainer)
        trainer.add_callback(clock)
        trainer.train()
    except (LossNotFinite, LossNotTheModels) as error:
        return None, str(error)
    except torch.OutOfMemoryError as error:
        tokens = sum(len(row.input_ids) for row in rows)
        return None, (
            f"a step of {len(rows)} rows and {tokens} tokens does not fit into the memory of {request.placement.device} ({error}); "
            "lower placement.micro_batch, turn gradient_checkpointing on, or take qlora or a smaller base model"
        )
    return replace(clock.steps[-1], loss=clock.steps[0].loss), None


def _room_problems(step: Step | None, *, peak: int, available: int, free_disk: int) -> list[str]:
    problems = []
    if peak > MEMORY_SHARE * available:
        problems.append(
            f"the step took {peak / GIB:.1f} GiB of memory and {available / GIB:.1f} GiB were free, too little to be safe; "
            "lower placement.micro_batch, turn gradient_checkpointing on, or close other programs"
        )
    # Twice: the new weights are whole before the old ones go, and tracking keeps a copy.
    needed = WORKING_DISK_BYTES + 2 * (step.written_bytes if step else 0)
    if free_disk < needed:
        problems.append(
            f"the output needs {needed / GIB:.2f} GiB of disk and {free_disk / GIB:.2f} GiB are free; free some, or use another store"
        )
    return problems


def main() -> None:
    """The command line."""
    request = parse(PreflightRequest)
    end_on_sigterm()
    quiet_libraries()
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
