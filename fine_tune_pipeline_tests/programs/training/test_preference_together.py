"""Compared answers in two processes: the same as in one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.exit_codes import PREEMPTED
from fine_tune_pipeline.programs.preference import Preference
from fine_tune_pipeline.programs.requests import CheckpointPolicy, Parallel, Placement, Technique, TrainRequest
from fine_tune_pipeline.programs.training.references import FILE
from fine_tune_pipeline_tests.comparisons import write_pairs
from fine_tune_pipeline_tests.programs.training.several import (
    assert_same,
    learned,
    no_room_to_look_ahead_in_the_second,
    result_of,
    stops_after_two_steps,
    trained_together,
)
from fine_tune_pipeline_tests.small_training import Recorder, train_request
from fine_tune_pipeline_tests.tiny import tiny_model

Type = Literal["dpo", "orpo", "kto"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 pairs, or 41 single answers: one row is left for the last step, with which the second process has nothing to do."""
    return write_pairs(tmp_path_factory.mktemp("data") / "train.jsonl", single=7)


@pytest.fixture
def ask(model: Path, data: Path, tmp_path: Path) -> Callable[..., TrainRequest]:
    def request(name: str, type: Type, *, technique: Technique | None = None, **numbers: Any) -> TrainRequest:
        technique = technique or Technique(type="lora", rank=8)
        usual = {"learning_rate": 1e-3, "preference": Preference(type=type)}
        placement = Placement(micro_batch=2, threads=1)
        asked = train_request(tmp_path / name, model=model, train=data, technique=technique, placement=placement, **usual | numbers)
        return asked.model_copy(update={"checkpoints": CheckpointPolicy()})

    return request


@pytest.mark.parametrize(("type", "parallel"), [("dpo", "ddp"), ("orpo", "ddp"), ("kto", "ddp"), ("orpo", "fsdp2")])
def test_two_processes_learn_from_comparisons_what_one_learns(type: Type, parallel: Parallel, ask: Callable[..., TrainRequest]):
    request = ask("together", type)
    assert trained_together(request, parallel=parallel) == [0, 0]
    result, alone = result_of(request), train.run(ask("alone", type), Recorder())
    assert_same(result, alone)
    assert result.processes == 2
    assert (result.rows, result.without_comparison) == (alone.rows, alone.without_comparison)
    for (step, figures), (wanted_step, wanted) in zip(result.validation_figures, alone.validation_figures, strict=True):
        assert (step, figures) == (wanted_step, pytest.approx(wanted, rel=1e-4, abs=1e-6))


def test_the_look_ahead_of_kto_halves_for_all_when_one_process_has_no_room_for_it(ask: Callable[..., TrainRequest]):
    request = ask("together", "kto")
    assert trained_together(request, trouble=no_room_to_look_ahead_in_the_second) == [0, 0]
    result = result_of(request)
    assert [line.partition(";")[0] for line in result.remedies] == ["process 1: step 1: out of memory with 2 rows a pass"]
    assert result.micro_batch == 1
    assert_same(result, train.run(ask("alone", "kto"), Recorder()))


@pytest.mark.parametrize("type", ["dpo", "kto"])
def test_told_to_stop_both_go_on_with_the_same_reference_bit_by_bit(type: Type, ask: Callable[..., TrainRequest]):
    technique = Technique(type="lora", rank=8, dropout=0.1)
    whole, request = (ask(name, type, technique=technique) for name in ("whole", "broken"))
    assert trained_together(whole) == [0, 0]
    assert trained_together(request, trouble=stops_after_two_steps) == [PREEMPTED, 0]
    reference = Path(request.output) / FILE
    assert reference.exists()
    assert trained_together(request) == [0, 0]
    result = result_of(request)
    assert result.continued_from == (2,)
    assert learned(result) == learned(result_of(whole))
    assert not reference.exists()
