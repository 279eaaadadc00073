"""One training in two processes: the same as in one, and ended whole when one of them dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.exit_codes import MATE_LOST, PREEMPTED
from fine_tune_pipeline.programs.reporting import PARENT_VARIABLE
from fine_tune_pipeline.programs.requests import CheckpointPolicy, Parallel, Placement, Technique, TrainRequest, TrainResult
from fine_tune_pipeline.programs.training import step_loss
from fine_tune_pipeline.programs.training.progress import Progress
from fine_tune_pipeline.resources.compute.job import Job
from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline_tests.extended import TAGGED, extended
from fine_tune_pipeline_tests.programs.training.killing import files_of
from fine_tune_pipeline_tests.programs.training.several import (
    assert_same,
    learned,
    never_ends_a_pass_in_the_first,
    no_number_in_the_second,
    no_room_for_two_rows_in_the_second,
    no_room_in_the_second,
    result_of,
    started_together,
    stops_after_two_steps,
    trained_together,
)
from fine_tune_pipeline_tests.programs.training.test_endurance import Spoiled
from fine_tune_pipeline_tests.small_training import ROWS, Recorder, train_request, write_rows
from fine_tune_pipeline_tests.tiny import tiny_model
from fine_tune_pipeline_tests.waiting import wait_until

LORA, FULL = Technique(type="lora", rank=8), Technique(type="full")

NO_POLICY = CheckpointPolicy()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of eight rows and one of a single row, with which the second process has nothing to do."""
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", ROWS[:17])


@pytest.fixture(scope="module")
def ask(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainRequest]:
    def request(technique: Technique = LORA, *, policy: CheckpointPolicy = NO_POLICY, **numbers: Any) -> TrainRequest:
        usual = {"learning_rate": 1e-3, **numbers}
        placement = Placement(micro_batch=2, threads=1)
        output = tmp_path_factory.mktemp("output")
        asked = train_request(output, model=model, train=data, technique=technique, placement=placement, **usual)
        return asked.model_copy(update={"checkpoints": policy})

    return request


@pytest.fixture(scope="module")
def alone(ask: Callable[..., TrainRequest]) -> dict[str, TrainResult]:
    """What one process comes to."""
    return {technique.type: train.run(ask(technique), Recorder()) for technique in (LORA, FULL)}


@pytest.mark.parametrize(("technique", "parallel"), [(LORA, "ddp"), (FULL, "ddp"), (LORA, "fsdp2"), (FULL, "fsdp2")])
def test_two_processes_learn_what_one_learns_with_the_same_effective_batch(
    technique: Technique, parallel: Parallel, ask: Callable[..., TrainRequest], alone: dict[str, TrainResult]
):
    request = ask(technique)
    assert trained_together(request, parallel=parallel) == [0, 0]
    result = result_of(request)
    assert_same(result, alone[technique.type])
    one = alone[technique.type]
    assert (result.tokens, result.labelled_tokens, result.passes_rows) == (one.tokens, one.labelled_tokens, one.passes_rows)
    assert (result.processes, result.trainable_parameters) == (2, one.trainable_parameters)
    assert files_of(Path(request.output)) == ["adapter", "curve.jsonl", "request.json", "result.json"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_added_tokens_learn_in_two_processes_as_in_one(parallel: Parallel, ask: Callable[..., TrainRequest], tmp_path: Path):
    made = extended(tmp_path / "extended")
    change = {"model": made.model, "train": str(write_rows(tmp_path / "tagged.jsonl", TAGGED[:9]))}
    technique = LORA.model_copy(update={"added_tokens": tuple(sorted(made.tokens.values()))})
    request, one = (ask(technique).model_copy(update=change) for _ in range(2))
    assert trained_together(request, parallel=parallel) == [0, 0]
    assert_same(result_of(request), train.run(one, Recorder()))


def test_a_process_without_memory_halves_for_all_and_leaves_nobody_waiting(ask: Callable[..., TrainRequest], alone: dict[str, TrainResult]):
    request = ask()
    assert trained_together(request, trouble=no_room_for_two_rows_in_the_second) == [0, 0]
    result = result_of(request)
    assert [line.partition(";")[0] for line in result.remedies] == ["process 1: step 1: out of memory with 2 rows a pass"]
    assert result.micro_batch == 1
    assert_same(result, alone["lora"])


def test_memory_that_never_suffices_in_one_process_ends_all(ask: Callable[..., TrainRequest]):
    """The first process fails with what the second has said, which itself ends in silence."""
    assert trained_together(ask(), trouble=no_room_in_the_second) == [1, 0]


def test_a_loss_that_is_no_number_in_one_process_skips_the_step_in_all(ask: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch):
    request = ask()
    assert trained_together(request, trouble=no_number_in_the_second) == [0, 0]
    result = result_of(request)
    ((step, why),) = result.skipped_steps
    assert step == 1
    assert why.startswith("the loss is nan on rows row")
    assert why.count("row") == 1 + 2  # of the one pass that was spoiled
    monkeypatch.setattr(step_loss, "batch_loss", Spoiled(float("nan"), lambda number: number == 0))
    assert_same(result, train.run(ask(), Recorder()))


DROPOUT = Technique(type="lora", rank=8, dropout=0.1)


def ended(processes: list[BaseProcess], *, seconds: float) -> list[int | None]:
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


@pytest.mark.parametrize(("technique", "parallel"), [(DROPOUT, "ddp"), (FULL, "fsdp2")])
def test_a_killed_process_ends_the_other_and_both_go_on_bit_by_bit(
    technique: Technique, parallel: Parallel, ask: Callable[..., TrainRequest]
):
    """Without any launcher that would end it."""
    whole = ask(technique, epochs=8.0)
    assert trained_together(whole, parallel=parallel) == [0, 0]
    request = ask(technique, epochs=8.0, policy=CheckpointPolicy(steps=5, keep=2))
    first, second = started_together(request, parallel=parallel)
    checkpoints = Path(request.output) / "checkpoints"
    wait_until(lambda: list(checkpoints.glob("00000?")) or second.exitcode is not None, what="a checkpoint")
    second.kill()
    assert ended([second, first], seconds=10)[1] not in (None, 0)
    assert trained_together(request, parallel=parallel) == [0, 0]
    result = result_of(request)
    assert result.continued_from != ()
    assert learned(result) == learned(result_of(whole))


def test_a_killed_process_ends_the_other_even_if_that_one_hears_nothing(ask: Callable[..., TrainRequest]):
    request = ask()
    mark = Path(request.output) / "hangs"
    first, second = started_together(request, trouble=partial(never_ends_a_pass_in_the_first, mark))
    wait_until(mark.exists, what="a pass that does not end")
    second.kill()
    assert ended([second, first], seconds=10) == [-9, MATE_LOST]


class Launched:
    """A training as a place starts it on this machine."""

    def __init__(self, request: TrainRequest) -> None:
        self.output = Path(request.output)
        job = Job(request=request, folder=self.output)
        request.write(job.request_file)
        command = Local(launcher="accelerate", processes=2, parallel="fsdp2").command(job, python=sys.executable)
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        self.said = self.output / "said"
        with self.said.open("w") as said:
            self.launcher = subprocess.Popen(command, env=environment, start_new_session=True, stdout=said, stderr=said)
        curve = self.output / "curve.jsonl"
        wait_until(lambda: curve.exists() and curve.stat().st_size, deadline_seconds=120, what="the first step")
        self.processes = psutil.Process(self.launcher.pid).children()

    def alive(self) -> list[psutil.Process]:
        return [process for process in self.processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def launched(ask: Callable[..., TrainRequest]) -> Iterator[Launched]:
    found = Launched(ask(FULL, epochs=20_000.0))
    yield found
    found.launcher.kill()
    found.launcher.wait()
    for process in found.alive():
        process.kill()


def test_a_killed_process_ends_the_launcher_and_all_others_within_ten_seconds(launched: Launched):
    assert len(launched.processes) == 2
    launched.processes[1].kill()
    assert launched.launcher.wait(timeout=10) == 128 + 9
    assert launched.alive() == []
    assert "process 1 has ended first, killed by signal 9" in launched.said.read_text(encoding="utf-8")


def test_a_launcher_that_is_killed_takes_its_processes_along(launched: Launched):
    launched.launcher.kill()
    launched.launcher.wait()
    wait_until(lambda: not launched.alive(), deadline_seconds=10, what="the end of all processes")
    assert launched.alive() == []


def test_a_signal_to_the_launcher_leaves_a_checkpoint_and_its_own_exit_code(launched: Launched):
    launched.launcher.terminate()
    assert launched.launcher.wait(timeout=15) == PREEMPTED
    assert files_of(launched.output / "checkpoints") == ["000001"]


@pytest.mark.parametrize(("technique", "parallel"), [(DROPOUT, "ddp"), (FULL, "fsdp2")])
def test_a_signal_is_answered_by_one_checkpoint_of_all(technique: Technique, parallel: Parallel, ask: Callable[..., TrainRequest]):
    request = ask(technique, epochs=2000.0)
    processes = started_together(request, parallel=parallel)
    curve = Path(request.output) / "curve.jsonl"
    wait_until(lambda: curve.exists() and curve.stat().st_size, what="the first step")
    for process in processes:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
    # The first process speaks for all.
    assert ended(processes, seconds=10) == [PREEMPTED, 0]
    (checkpoint,) = (Path(request.output) / "checkpoints").iterdir()
    assert Progress.of(checkpoint).step == len(curve.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_one_process_goes_on_where_two_have_ended(parallel: Parallel, ask: Callable[..., TrainRequest], alone: dict[str, TrainResult]):
    request = ask(FULL)
    assert trained_together(request, parallel=parallel, trouble=stops_after_two_steps) == [PREEMPTED, 0]
    result = train.run(request, Recorder())
    assert result.continued_from == (2,)
    assert_same(result, alone["full"])
