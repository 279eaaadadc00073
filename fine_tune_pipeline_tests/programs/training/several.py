"""Trainings in several processes on this machine, as a launcher would start them, with a trouble planted in some of them."""

import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fine_tune_pipeline.programs.requests import Parallel, TrainRequest, TrainResult
from fine_tune_pipeline.programs.training.losses import SummedLoss
from fine_tune_pipeline_tests.programs.training.killing import started, train_to_the_end

LIVE = {"tokens_per_second", "memory_bytes"}
"""Numbers of a point that no two runs have in common."""

Trouble = Callable[[int], None]
"""Called in a process before it trains, with its rank."""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def started_together(
    request: TrainRequest, *, processes: int = 2, parallel: Parallel = "ddp", trouble: Trouble | None = None
) -> list[BaseProcess]:
    """The processes of one training, by rank."""
    asked = Path(request.output) / "request.json"
    request.write(asked)
    port = free_port()
    return [started(train_as_one_of_several, str(asked), rank, processes, port, parallel, trouble) for rank in range(processes)]


def trained_together(request: TrainRequest, **how: Any) -> list[int | None]:
    """Train to the end; exit codes by rank."""
    processes = started_together(request, **how)
    for process in processes:
        process.join(120)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def train_as_one_of_several(request: str, rank: int, size: int, port: int, parallel: str, trouble: Trouble | None) -> None:
    """What torchrun tells a process, and then the program."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # Of their own, as torchrun's are.
    os.setsid()
    if trouble is not None:
        trouble(rank)
    train_to_the_end(request, "--parallel", parallel)


def spoil(change: Callable[[int, torch.Tensor, Mapping[str, Any]], torch.Tensor]) -> None:
    """From now on the loss of a training pass, counted from 0, is what `change` makes of it."""
    from fine_tune_pipeline.programs.training import step_loss

    computed, count = step_loss.batch_loss, -1

    def spoiled(model: Any, batch: dict[str, Any], **options: float) -> SummedLoss:
        nonlocal count
        found = computed(model, batch, **options)
        if not torch.is_grad_enabled():
            return found
        count += 1
        return SummedLoss(*(change(count, loss, batch) for loss in found))

    step_loss.batch_loss = spoiled


def no_room_for_two_rows_in_the_second(rank: int) -> None:
    def change(number: int, loss: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
        if number >= 1 and len(batch["row"]) > 1:
            raise torch.OutOfMemoryError("tried to allocate 7 GiB")
        return loss

    if rank == 1:
        spoil(change)


def no_room_in_the_second(rank: int) -> None:
    def change(number: int, loss: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate 7 GiB")

    if rank == 1:
        spoil(change)


def no_number_in_the_second(rank: int) -> None:
    if rank == 1:
        spoil(lambda number, loss, batch: loss * (float("nan") if number == 1 else 1.0))


def never_ends_a_pass_in_the_first(mark: Path, rank: int) -> None:
    """As one that waits for an accelerator; `mark` is a file that says so."""
    import threading

    def change(number: int, loss: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
        if number == 2:
            mark.touch()
            threading.Event().wait()
        return loss

    if rank == 0:
        spoil(change)


def stops_after_two_steps(rank: int) -> None:
    """A signal that only the second process gets."""
    from fine_tune_pipeline.programs.training.curve import Watch

    made = Watch.on_step_end

    def ends(self: Watch, args: Any, state: Any, control: Any, **event: Any) -> Any:
        if state.global_step == 2 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return made(self, args, state, control, **event)

    Watch.on_step_end = ends  # type: ignore[method-assign]


def curve_of(result: TrainResult) -> list[dict[str, float]]:
    points = [json.loads(line) for line in Path(result.curve).read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in point.items() if name not in LIVE} for point in points]


def weights_of(result: TrainResult) -> dict[str, torch.Tensor]:
    return {name: tensor for path in Path(result.adapter).glob("*.safetensors") for name, tensor in load_file(path).items()}


def result_of(request: TrainRequest) -> TrainResult:
    return TrainResult.read(Path(request.output) / "result.json")


def assert_same(together: TrainResult, alone: TrainResult) -> None:
    """But for rounding."""
    for point, wanted in zip(curve_of(together), curve_of(alone), strict=True):
        assert point == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    got, wanted_weights = weights_of(together), weights_of(alone)
    assert got.keys() == wanted_weights.keys()
    for name, tensor in got.items():
        assert tensor.dtype == wanted_weights[name].dtype
        assert float((tensor - wanted_weights[name]).abs().max()) < 1e-5, name
    steps, losses = zip(*together.validation_losses, strict=True)
    assert (steps, losses) == tuple(map(pytest.approx, zip(*alone.validation_losses, strict=True)))


def learned(result: TrainResult) -> tuple[Any, ...]:
    return result.adapter_sha256, curve_of(result), result.validation_losses, result.passes, result.tokens


def no_room_to_look_ahead_in_the_second(rank: int) -> None:
    """For more than one row, before the passes of a step; a validation has room."""
    from fine_tune_pipeline.programs.training.preference_loss import KtoLoss

    begin = KtoLoss.begin

    def crowded(self: KtoLoss, model: Any, passes: Any, batched: Any) -> Any:
        if model.training and any(len(rows) > 1 for rows in passes):
            raise torch.OutOfMemoryError("tried to allocate 7 GiB")
        return begin(self, model, passes, batched)

    if rank == 1:
        KtoLoss.begin = crowded
