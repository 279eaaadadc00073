"""What a training survives, and that it is the same training afterwards."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.requests import CheckpointPolicy, Placement, Technique, TrainRequest, TrainResult
from fine_tune_pipeline.programs.training import step_loss
from fine_tune_pipeline.programs.training.checkpoints import Checkpoints
from fine_tune_pipeline.programs.training.keeping import CheckpointOfAnotherModel
from fine_tune_pipeline.programs.training.losses import SummedLoss
from fine_tune_pipeline.programs.training.preemption import Preempted, Preemption
from fine_tune_pipeline.programs.training.progress import Progress
from fine_tune_pipeline.programs.training.steadiness import Diverged
from fine_tune_pipeline.programs.training.step_gradient import OutOfMemory
from fine_tune_pipeline_tests.programs.training.killing import files_of, killed_at_random, started, train_to_the_end
from fine_tune_pipeline_tests.small_training import Recorder, train_request
from fine_tune_pipeline_tests.tiny import tiny_model
from fine_tune_pipeline_tests.waiting import wait_until

EVERY_STEP = CheckpointPolicy(steps=1, keep=2)

LIVE = {"tokens_per_second", "memory_bytes"}


@pytest.fixture
def ask(model: Path, data: Path, tmp_path: Path) -> Callable[..., TrainRequest]:
    """A training with dropout, so that its random generators count; a checkpoint after every step unless said otherwise."""

    def request(name: str, *, policy: CheckpointPolicy = EVERY_STEP, technique: Technique | None = None, **numbers: Any) -> TrainRequest:
        technique = technique or Technique(type="lora", rank=8, dropout=0.1)
        placement = Placement(micro_batch=4, threads=1)
        asked = train_request(tmp_path / name, model=model, train=data, technique=technique, placement=placement, **numbers)
        return asked.model_copy(update={"checkpoints": policy})

    return request


def learned(result: TrainResult) -> tuple[Any, ...]:
    """What a break must not change: the adapter, every point of the curve but for its speed, and all counts."""
    curve = [json.loads(line) for line in Path(result.curve).read_text(encoding="utf-8").splitlines()]
    points = [{name: value for name, value in point.items() if name not in LIVE} for point in curve]
    counts = (result.steps, result.tokens, result.labelled_tokens, result.passes, result.passes_rows, result.most_tokens)
    return result.adapter_sha256, points, counts, result.validation_losses, result.padding_share


class EndsAfter(Recorder):
    """Asks the training to end when it hears of a step."""

    def __init__(self, step: int, preemption: Preemption) -> None:
        super().__init__()
        self._step = step
        self._preemption = preemption

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        super().progress(done, total, what, **numbers)
        self._preemption.asked = done >= self._step


TECHNIQUES = [
    Technique(type="lora", rank=8, dropout=0.1),
    Technique(type="full"),
    Technique(type="qlora", rank=4, dropout=0.1),
    Technique(type="lora", rank=4, dropout=0.1, use_pissa=True, lora_plus_ratio=4.0, layers=(1,)),
]


@pytest.mark.parametrize("technique", TECHNIQUES, ids=["lora", "full", "qlora", "pissa"])
@pytest.mark.parametrize("step", [2, 3])
def test_a_preempted_training_goes_on_bit_by_bit(step: int, technique: Technique, ask: Callable[..., TrainRequest]):
    """After the second step and after the third, with which an epoch ends."""
    whole = train.run(ask("whole", technique=technique, learning_rate=1e-3), Recorder())
    request = ask("broken", technique=technique, learning_rate=1e-3, policy=CheckpointPolicy())
    preemption = Preemption()
    recorder = EndsAfter(step, preemption)
    with pytest.raises(Preempted):
        train.run(request, recorder, preemption)
    assert f"preempted after step {step}: checkpoint" in recorder.lines[-1]
    result = train.run(request, Recorder())
    assert learned(result) == learned(whole)
    assert result.continued_from == (step,)


def test_twenty_kills_at_random_moments_change_nothing(ask: Callable[..., TrainRequest]):
    """While it loads, computes, writes the curve or a checkpoint."""
    request = ask("killed", epochs=25.0)
    output = Path(request.output)
    request.write(output / "request.json")
    assert killed_at_random(output, times=20, most_steps=4) == 20, "too short a training: it has ended before a kill"
    process = started(train_to_the_end, str(output / "request.json"))
    process.join()
    assert process.exitcode == 0
    result = TrainResult.read(output / "result.json")
    whole = train.run(ask("whole", epochs=25.0), Recorder())
    assert learned(result) == learned(whole)
    assert len(result.continued_from) > 5
    assert files_of(output) == ["adapter", "curve.jsonl", "request.json", "result.json"]


def test_a_finished_training_is_not_run_again(ask: Callable[..., TrainRequest]):
    request = ask("twice")
    output = Path(request.output)
    request.write(output / "request.json")
    seen = []
    for _ in range(2):
        process = started(train_to_the_end, str(output / "request.json"))
        process.join()
        assert process.exitcode == 0
        seen.append((output / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_by_a_checkpoint_before_its_ten_seconds_are_over(number: signal.Signals, ask: Callable[..., TrainRequest]):
    request = ask("signalled", epochs=20_000.0, policy=CheckpointPolicy())
    output = Path(request.output)
    request.write(output / "request.json")
    process = started(train_to_the_end, str(output / "request.json"))
    assert process.pid is not None
    try:
        wait_until(lambda: (output / "curve.jsonl").exists() and (output / "curve.jsonl").stat().st_size, what="the first step")
        os.kill(process.pid, number)
        process.join(10)
        assert process.exitcode == 75
    finally:
        process.kill()
        process.join()
    assert files_of(output / "checkpoints") == ["000001"]


def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(ask: Callable[..., TrainRequest]):
    whole = train.run(ask("whole"), Recorder())
    request = ask("damaged")
    preemption = Preemption()
    with pytest.raises(Preempted):
        train.run(request, EndsAfter(4, preemption), preemption)
    older, newer = Checkpoints(Path(request.output) / "checkpoints", keep=2).all()[-2:]
    (newer / "optimizer.pt").write_bytes(b"broken")
    recorder = Recorder()
    result = train.run(request, recorder)
    assert any(f"{newer}: optimizer.pt changed after" in line for line in recorder.lines)
    assert result.continued_from == (Progress.of(older).step,) if older.exists() else (3,)
    assert learned(result) == learned(whole)


def test_checkpoints_of_another_training_in_the_same_place_are_not_gone_on_from(ask: Callable[..., TrainRequest]):
    preemption = Preemption()
    with pytest.raises(Preempted):
        train.run(ask("shared", seed=1), EndsAfter(2, preemption), preemption)
    result = train.run(ask("shared", seed=2), Recorder())
    assert result.continued_from == ()
    assert result.adapter_sha256 == train.run(ask("alone", seed=2), Recorder()).adapter_sha256


def test_a_checkpoint_that_does_not_fit_the_model_is_refused_by_name(ask: Callable[..., TrainRequest], tmp_path: Path):
    preemption = Preemption()
    request = ask("changed").model_copy(update={"model": str(tmp_path / "model")})
    tiny_model(tmp_path / "model")
    with pytest.raises(Preempted):
        train.run(request, EndsAfter(2, preemption), preemption)
    shutil.rmtree(tmp_path / "model")
    tiny_model(tmp_path / "model", architecture="llama")
    with pytest.raises(
        CheckpointOfAnotherModel,
        match=r"checkpoints/00000\d: the model of which it was written had other parameters .* remove .*checkpoints",
    ):
        train.run(request, Recorder())


def test_a_full_disk_costs_checkpoints_but_not_the_training(ask: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = train.run(ask("whole"), Recorder())
    monkeypatch.setattr("fine_tune_pipeline.programs.training.checkpoints.os.fsync", full)
    recorder = Recorder()
    request = ask("full")
    result = train.run(request, recorder)
    assert learned(result) == learned(whole)
    assert sum("no room for a checkpoint" in line for line in recorder.lines) == 5
    assert files_of(Path(request.output) / "checkpoints") == []


class Memory:
    """An allocator that gives room for so many rows a pass, from one pass on."""

    def __init__(self, rows: int, *, from_pass: int = 0) -> None:
        self._rows = rows
        self._left = from_pass
        self._loss = step_loss.batch_loss

    def __call__(self, model: Any, batch: dict[str, Any], **options: float) -> SummedLoss:
        loss = self._loss(model, batch, **options)
        if not torch.is_grad_enabled():
            return loss
        self._left -= 1
        if self._left < 0 and len(batch["row"]) > self._rows:
            raise torch.OutOfMemoryError("tried to allocate 7 GiB")
        return loss


def test_out_of_memory_in_the_middle_of_a_step_halves_the_micro_batch_and_changes_no_number(
    ask: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch
):
    whole = train.run(ask("whole", technique=Technique(type="lora", rank=8)), Recorder())
    monkeypatch.setattr(step_loss, "batch_loss", Memory(rows=1, from_pass=3))
    result = train.run(ask("small", technique=Technique(type="lora", rank=8)), Recorder())
    assert result.micro_batch == 1
    assert [line.partition(";")[0] for line in result.remedies] == [
        "step 2: out of memory with 4 rows a pass",
        "step 2: out of memory with 2 rows a pass",
    ]
    assert result.steps == whole.steps
    assert result.final_loss == pytest.approx(whole.final_loss, rel=1e-3)
    assert result.tokens == whole.tokens


def test_what_does_not_fit_row_by_row_is_an_error_that_names_the_longest(ask: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(step_loss, "batch_loss", Memory(rows=0))
    with pytest.raises(
        OutOfMemory, match=r"step 1: out of memory with 1 rows a pass, the longest of \d+ tokens \(row\d-\d\): .*training\.max_length"
    ):
        train.run(ask("none"), Recorder())


class Spoiled:
    """Losses of some passes, counted from 0, are replaced."""

    def __init__(self, value: float, passes: Callable[[int], bool]) -> None:
        self._value = value
        self._wanted = passes
        self._count = -1
        self._loss = step_loss.batch_loss

    def __call__(self, model: Any, batch: dict[str, Any], **options: float) -> SummedLoss:
        loss = self._loss(model, batch, **options)
        if not torch.is_grad_enabled():
            return loss
        self._count += 1
        return SummedLoss(loss.trained * self._value, loss.nll * self._value) if self._wanted(self._count) else loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_without_a_finite_loss_is_skipped_counted_and_named(
    value: float, ask: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(step_loss, "batch_loss", Spoiled(value, lambda number: number == 2))
    recorder = Recorder()
    result = train.run(ask("skipped"), recorder)
    ((step, why),) = result.skipped_steps
    assert step == 2
    assert why.startswith(f"the loss is {value} on rows row")
    assert why.count("row") == 1 + 4  # of the one pass that was spoiled
    assert result.steps == 5
    assert f"step 2 is skipped: {why}" in recorder.lines


def test_a_leap_of_the_loss_is_skipped(ask: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(step_loss, "batch_loss", Spoiled(1e4, lambda number: number in (40, 41)))
    result = train.run(ask("leap", epochs=8.0), Recorder())
    assert [step for step, _ in result.skipped_steps] == [21]
    assert "the loss leaps to" in result.skipped_steps[0][1]


def test_a_diverging_training_is_tried_from_where_it_was_well_with_half_the_rate(
    ask: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(step_loss, "batch_loss", Spoiled(float("nan"), lambda number: 4 <= number < 10))
    request = ask("diverged", schedule="constant", warmup_share=0.0)
    result = train.run(request, Recorder())
    assert [step for step, _ in result.skipped_steps] == [3, 4, 5]
    assert result.continued_from == (2,)
    assert "once more from step 2, at 0.5 of the planned rate" in result.remedies[0]
    curve = [json.loads(line) for line in Path(result.curve).read_text(encoding="utf-8").splitlines()]
    assert [point["learning_rate"] for point in curve] == pytest.approx([0.01, 0.01, 0.005, 0.005, 0.005, 0.005])


def test_a_training_that_diverges_at_every_rate_fails_and_says_what_to_do(ask: Callable[..., TrainRequest]):
    with pytest.raises(
        Diverged, match=r"step \d: the loss is (nan|inf) on rows row.*learning_rate.*; the same at 0.125 of the planned rate"
    ):
        train.run(ask("hopeless", learning_rate=1e30), Recorder())
