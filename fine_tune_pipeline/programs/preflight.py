"""Step 5 as a program: what the place of training is, one real training step there on the longest batch, and the classic mistakes."""

import statistics
from collections.abc import Sequence

import torch

from fine_tune_pipeline.programs.access import tracking_problem, try_output
from fine_tune_pipeline.programs.learned_text import log_lines
from fine_tune_pipeline.programs.machine import cpu_cores, device_exists, device_name, devices, disk_free_bytes, driver, memory, versions
from fine_tune_pipeline.programs.mistakes.checklist import Checklist
from fine_tune_pipeline.programs.mistakes.texts import Texts, read_texts
from fine_tune_pipeline.programs.models import bfloat16_speedup, peak_memory_bytes
from fine_tune_pipeline.programs.preflight_requests import PreflightRequest, PreflightResult
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, end_on_signals, finish, parse, session
from fine_tune_pipeline.programs.shown_rows import part_tokens, preview
from fine_tune_pipeline.programs.training.batches import Row, over_long
from fine_tune_pipeline.programs.trial import Tried, try_training

GIB = 2**30

IN_PARTS = "the model lies in parts (fsdp2), and one device may not have room for all; the training's first step is the trial"

MEMORY_SHARE = 0.9
"""Of the free memory, what a training may use: batches of later epochs and the evaluation need a little more than the measured step."""

WOULD_BREAK = frozenset({"wrong_tokenizer", "beyond_context"})
"""Mistakes with which a step ends in an index out of range: on a GPU that ends the process, and all that was found with it."""

WORKING_DISK_BYTES = 200 * 2**20
"""Curve, tokenizer and the tracking copy, beside the weights that are written."""


def run(request: PreflightRequest, reporter: Reporter) -> PreflightResult:
    """Measure, look for the classic mistakes, and say in `problems` what else would stop the training, each with what to do.

    A model that will lie in parts is not loaded: all is judged but the step and what only a model shows.

    Raises:
        OutputNotWritable: not even the answer could be written.
        BadRows: a file of rows cannot be read at all.
    """
    try_output(request.output)
    if request.placement.threads is not None:
        torch.set_num_threads(request.placement.threads)
    before, free_disk = memory(request.placement.device), disk_free_bytes(request.output)
    checks = Checklist()
    texts = read_texts(request, checks)
    tried = Tried(peak_bytes=peak_memory_bytes())
    problems = _device_problems(request.placement.device, processes=request.processes)
    not_tried = IN_PARTS if request.parts > 1 else ""
    if not_tried:
        reporter.log(f"preflight: no training step is tried: {not_tried}")
    elif texts.learned and not problems and not WOULD_BREAK.intersection(checks.failed):
        tried = try_training(request, texts, checks=checks, reporter=reporter)
    problems += tried.problems
    sharing = request.processes if request.placement.device == "cpu" else 1
    problems += _room_problems(tried, available=before.available // sharing, free_disk=free_disk)
    if request.tracking is not None and (problem := tracking_problem(request.tracking, artifacts=request.artifacts)):
        problems.append(problem)
    shown = () if texts.tokenizer is None else preview(texts.parts["train"], tokenizer=texts.tokenizer)
    if shown:
        reporter.log(log_lines(shown))
    device = request.placement.device
    step = tried.step
    return PreflightResult(
        device=device_name(device),
        devices=devices(),
        driver=driver(),
        versions=versions(),
        cpu_cores=cpu_cores(),
        memory_total_bytes=before.total,
        memory_available_bytes=before.available,
        disk_free_bytes=free_disk,
        **_lengths(texts.learned, max_length=request.hyperparameters.max_length),
        rows=texts.rows,
        batch_rows=min(request.placement.micro_batch, request.hyperparameters.effective_batch),
        step_seconds=step.seconds if step else 0.0,
        tokens_per_second=step.tokens / step.seconds if step else 0.0,
        peak_memory_bytes=tried.peak_bytes,
        loss=step.loss if step else 0.0,
        bfloat16_speedup=bfloat16_speedup(device if device_exists(device) else "cpu"),
        parts=tuple(part_tokens(name, part, max_length=request.hyperparameters.max_length) for name, part in texts.parts.items()),
        preview=shown,
        answer=tried.answer,
        unused_tokens=_unused(request, texts),
        mistakes=checks.all(unreached=_unreached(checks, problems or ([not_tried] if not_tried else []))),
        not_tried=not_tried,
        problems=tuple(problems),
    )


def _lengths(rows: Sequence[Row], *, max_length: int) -> dict[str, object]:
    lengths = sorted(row.length for row in rows) or [0]
    return {
        "longest_tokens": lengths[-1],
        "over_long": tuple(over_long(rows, max_length=max_length)),
        "tokens_p50": int(statistics.median_low(lengths)),
        "tokens_p95": lengths[int(0.95 * (len(lengths) - 1))],
    }


def _unused(request: PreflightRequest, texts: Texts) -> tuple[str, ...]:
    seen = {id for row in texts.learned for id in row.input_ids}
    unused = [id for id in request.technique.added_tokens if id not in seen]
    return () if texts.tokenizer is None or not seen else tuple(texts.tokenizer.convert_ids_to_tokens(unused))


def _unreached(checks: Checklist, reasons: Sequence[str]) -> str:
    """Why some mistakes were not looked for."""
    if checks.failed:
        return f"not looked at: {', '.join(checks.failed)} must be mended first"
    return f"not looked at: {reasons[0]}" if reasons else "not looked at"


def _device_problems(device: str, *, processes: int) -> list[str]:
    if device != "cpu" and processes > 1 and processes > torch.cuda.device_count():
        return [
            f"{processes} processes want a device each, and torch sees {torch.cuda.device_count()} CUDA devices; lower "
            "compute.place.processes or raise compute.place.gpus"
        ]
    if device_exists(device):
        return []
    return [f"device {device} is not here (torch sees {torch.cuda.device_count()} CUDA devices); use device: cpu, or another machine"]


def _room_problems(tried: Tried, *, available: int, free_disk: int) -> list[str]:
    problems = []
    if tried.peak_bytes > MEMORY_SHARE * available:
        problems.append(
            f"the step took {tried.peak_bytes / GIB:.1f} GiB of memory and {available / GIB:.1f} GiB were free, too little to be safe; "
            "lower placement.micro_batch, turn gradient_checkpointing on, or close other programs"
        )
    # Twice: the new weights are whole before the old ones go, and tracking keeps a copy.
    needed = WORKING_DISK_BYTES + 2 * (tried.step.written_bytes if tried.step else 0)
    if free_disk < needed:
        problems.append(
            f"the output needs {needed / GIB:.2f} GiB of disk and {free_disk / GIB:.2f} GiB are free; free some, or use another store"
        )
    return problems


def main() -> None:
    """The command line."""
    request = parse(PreflightRequest)
    end_on_signals()
    quiet_libraries()
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
