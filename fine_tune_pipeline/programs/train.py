"""Step 6 as a program: train a base model by full tuning, LoRA or QLoRA, and keep the adapter."""

from collections.abc import Sequence
from pathlib import Path

import torch

from fine_tune_pipeline.programs.adapters import save, trainable_parameters
from fine_tune_pipeline.programs.batches import Row, check_rows, tokenised_rows
from fine_tune_pipeline.programs.curve import CurveFile, Validation, Watch
from fine_tune_pipeline.programs.models import held_memory_bytes, load_tokenizer, peak_memory_bytes, weights_sha256
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, end_on_signals, finish, parse, session
from fine_tune_pipeline.programs.requests import TrainRequest, TrainResult
from fine_tune_pipeline.programs.tracked_run import TrackedRun, tracked_run
from fine_tune_pipeline.programs.trainer import CompletionTrainer, build_trainer


def run(request: TrainRequest, reporter: Reporter) -> TrainResult:
    """Train, and leave `adapter/` and `curve.jsonl` in `request.output`.

    Raises:
        BadRows, RowsTooLong, NoLabelledTokens: the data cannot be learned from whole.
        LossNotFinite: names the step and the rows.
        LossNotTheModels: the architecture is not known well enough.
    """
    if request.placement.threads is not None:
        torch.set_num_threads(request.placement.threads)
    fixed_bytes = held_memory_bytes()
    tokenizer = load_tokenizer(request.model)
    rows, held_out = (
        tokenised_rows(path, tokenizer=tokenizer, format=request.format, loss_on=request.hyperparameters.loss_on)
        for path in (request.train, request.validation)
    )
    for checked in (rows, held_out):
        check_rows(checked, max_length=request.hyperparameters.max_length)
    trainer = build_trainer(request, rows=rows, tokenizer=tokenizer)
    adapter = Path(request.output) / "adapter"
    with tracked_run(request.tracking) as tracked, CurveFile(Path(request.output) / "curve.jsonl") as curve:
        watch = _watch(trainer, held_out, reporter=reporter, curve=curve, listeners=[] if tracked is None else [tracked])
        if tracked is not None:
            tracked.parameters(technique=request.technique, hyperparameters=request.hyperparameters, placement=request.placement)
        trainer.train()
        save(trainer.trained, adapter, tokenizer=tokenizer)
        if tracked is not None:
            _keep(tracked, adapter=adapter, curve=curve.path)
    run_id = None if tracked is None else tracked.run_id
    return _result(request, trainer, watch, adapter=adapter, run_id=run_id, fixed_bytes=fixed_bytes)


def _watch(
    trainer: CompletionTrainer, held_out: Sequence[Row], *, reporter: Reporter, curve: CurveFile, listeners: Sequence[TrackedRun]
) -> Watch:
    placement = trainer.recipe.placement
    validation = Validation(held_out, training_rows=len(trainer.rows), micro_batch=placement.micro_batch, collate=trainer.collate)
    watch = Watch(trainer, reporter=reporter, curve=curve, validation=validation, listeners=listeners)
    trainer.add_callback(watch)
    return watch


def _keep(tracked: TrackedRun, *, adapter: Path, curve: Path) -> None:
    tracked.flush()
    tracked.keep(str(curve))
    tracked.keep(str(adapter), folder="adapter")


def _result(
    request: TrainRequest, trainer: CompletionTrainer, watch: Watch, *, adapter: Path, run_id: str | None, fixed_bytes: int
) -> TrainResult:
    return TrainResult(
        adapter=str(adapter),
        adapter_sha256=weights_sha256(adapter),
        steps=len(watch.points),
        rows=len(trainer.rows),
        tokens=watch.tokens,
        labelled_tokens=watch.labelled,
        seconds=watch.seconds,
        tokens_per_second=watch.tokens / watch.seconds,
        first_loss=watch.points[0].loss,
        final_loss=watch.final_loss(),
        validation_losses=tuple(watch.validation_losses),
        peak_memory_bytes=peak_memory_bytes(),
        trainable_parameters=trainable_parameters(trainer.trained),
        curve=str(watch.curve.path),
        mlflow_run_id=run_id,
        fixed_memory_bytes=fixed_bytes if request.placement.device == "cpu" else 0,
        most_tokens=trainer.passes.most_tokens,
        most_labelled=trainer.passes.most_labelled,
        passes=trainer.passes.count,
        passes_rows=trainer.passes.rows,
        cpu_seconds=watch.cpu_seconds,
    )


def main() -> None:
    """The command line."""
    request = parse(TrainRequest)
    end_on_signals()
    quiet_libraries()
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
