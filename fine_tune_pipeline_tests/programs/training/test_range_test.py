"""The range test: what it chooses, and that the training afterwards is the one that the rate would give."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.requests import CheckpointPolicy, Placement, Technique, TrainRequest, TrainResult
from fine_tune_pipeline.programs.training.preemption import Preempted, Preemption
from fine_tune_pipeline.programs.training.range_steps import range_steps
from fine_tune_pipeline.programs.training.range_test import RangePoint, RangeTest, chosen, rates, smoothed
from fine_tune_pipeline_tests.small_training import Recorder, train_request, write_rows

PLANNED = 1e-3


def points(*, lowest: float, steps: int = 60) -> list[RangePoint]:
    """A valley around one rate."""
    return [
        RangePoint(learning_rate=rate, loss=0.0, smoothed=abs(number - lowest)) for number, rate in enumerate(rates(PLANNED, steps=steps))
    ]


def test_rates_rise_by_the_same_factor_from_a_tenth_to_a_hundred_times_the_planned_one():
    found = rates(PLANNED, steps=31)
    assert (found[0], found[10], found[-1]) == pytest.approx((1e-4, 1e-3, 1e-1))
    assert [later / earlier for earlier, later in pairwise(found)] == pytest.approx([10**0.1] * 30)


def test_a_smoothed_loss_is_the_weighted_mean_of_all_so_far():
    losses = [4.0, 2.0, 7.0]
    weighted = (0.8**2 * 4.0 + 0.8 * 2.0 + 7.0) / (0.8**2 + 0.8 + 1)
    assert smoothed(losses) == pytest.approx([4.0, (0.8 * 4.0 + 2.0) / 1.8, weighted])


@pytest.mark.parametrize(
    ("lowest", "rate", "said"),
    [
        (40, 1.1e-3, "a tenth of 0.011, where the smoothed loss is lowest"),
        (59, 3e-3, "would be 0.01; 3 times the planned 0.001 is the most"),
        (0, 1e-3 / 3, "would be 1e-05; the planned 0.001 divided by 3 is the least"),
    ],
)
def test_the_rate_is_a_tenth_of_where_the_loss_is_lowest_within_its_bounds(lowest: int, rate: float, said: str):
    found = chosen(points(lowest=lowest), planned=PLANNED)
    assert found.learning_rate == pytest.approx(rate)
    assert said in found.why


def test_without_a_step_the_planned_rate_is_taken():
    assert chosen([], planned=PLANNED).learning_rate == PLANNED


@pytest.fixture
def ask(model: Path, tmp_path: Path) -> Callable[..., TrainRequest]:
    data = write_rows(tmp_path / "train.jsonl")

    def request(name: str, *, technique: Technique | None = None, **numbers: Any) -> TrainRequest:
        usual: dict[str, Any] = {"learning_rate": PLANNED, "range_test": True}
        asked = train_request(
            tmp_path / name,
            model=model,
            train=data,
            technique=technique or Technique(type="lora", rank=8, dropout=0.1),
            placement=Placement(micro_batch=4, threads=1),
            **usual | numbers,
        )
        return asked.model_copy(update={"checkpoints": CheckpointPolicy(steps=1)})

    return request


def learned(result: TrainResult) -> tuple[Any, ...]:
    curve = [json.loads(line) for line in Path(result.curve).read_text(encoding="utf-8").splitlines()]
    return result.adapter_sha256, result.validation_losses, [(point["loss"], point["learning_rate"]) for point in curve]


@pytest.mark.parametrize("technique", [Technique(type="lora", rank=8, dropout=0.1), Technique(type="full")], ids=["lora", "full"])
def test_the_training_is_the_one_that_the_rate_would_give_if_it_were_written(technique: Technique, ask: Callable[..., TrainRequest]):
    recorder = Recorder()
    result = train.run(ask("tested", technique=technique), recorder)
    assert result.range_test is not None
    found = RangeTest.read(result.range_test)
    assert result.learning_rate == found.learning_rate
    assert PLANNED / 3 <= found.learning_rate <= 3 * PLANNED
    assert found.learning_rate == chosen(found.points, planned=PLANNED).learning_rate
    assert [point.learning_rate for point in found.points] == pytest.approx(rates(PLANNED, steps=30)[: len(found.points)])
    assert [point.smoothed for point in found.points] == pytest.approx(smoothed([point.loss for point in found.points]))
    assert min(point.loss for point in found.points) < 0.9 * found.points[0].loss
    assert f"learning rate {found.learning_rate:g}; {found.why}" in "".join(recorder.lines)
    written = train.run(ask("written", technique=technique, range_test=False, learning_rate=found.learning_rate), Recorder())
    assert written.range_test is None
    assert learned(result) == learned(written)


def test_it_learns_at_the_rates_that_it_says(ask: Callable[..., TrainRequest]):
    """Its first step is as that of a training at a tenth of the rate, and the second is after it."""
    found = RangeTest.read(train.run(ask("tested", technique=Technique(type="lora", rank=8)), Recorder()).range_test or "")
    flat = {"range_test": False, "schedule": "constant", "warmup_share": 0.0, "learning_rate": PLANNED / 10}
    plain = train.run(ask("plain", technique=Technique(type="lora", rank=8), **flat), Recorder())
    assert [point.loss for point in found.points[:2]] == [loss for loss, _ in learned(plain)[2][:2]]
    assert found.points[2].loss != learned(plain)[2][2][0]


def test_the_same_again_gives_the_same_rate(ask: Callable[..., TrainRequest]):
    first, again = (RangeTest.read(train.run(ask(name), Recorder()).range_test or "") for name in ("first", "again"))
    assert first.points == again.points
    assert first.learning_rate == again.learning_rate


class EndsAfter(Recorder):
    def __init__(self, step: int, preemption: Preemption) -> None:
        super().__init__()
        self._step, self._preemption = step, preemption

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        self._preemption.asked = done >= self._step


def test_a_training_that_is_broken_off_goes_on_with_the_rate_that_was_found(ask: Callable[..., TrainRequest]):
    whole = train.run(ask("whole"), Recorder())
    preemption = Preemption()
    request = ask("broken")
    with pytest.raises(Preempted):
        train.run(request, EndsAfter(2, preemption), preemption)
    written_at = (Path(request.output) / "range_test.json").stat().st_mtime_ns
    result = train.run(request, Recorder())
    assert (Path(request.output) / "range_test.json").stat().st_mtime_ns == written_at
    assert learned(result) == learned(whole)


def test_a_range_test_that_is_broken_off_leaves_nothing(ask: Callable[..., TrainRequest]):
    preemption = Preemption()
    preemption.asked = True
    request = ask("broken")
    with pytest.raises(Preempted):
        train.run(request, Recorder(), preemption)
    assert list(Path(request.output).iterdir()) == []


def test_another_request_in_the_same_place_is_tested_anew(ask: Callable[..., TrainRequest]):
    first = RangeTest.read(train.run(ask("shared"), Recorder()).range_test or "")
    second = RangeTest.read(train.run(ask("shared", seed=1), Recorder()).range_test or "")
    assert first.request_sha256 != second.request_sha256
    assert first.points != second.points


@pytest.mark.parametrize(("rows", "epochs", "steps"), [(24, 2.0, 30), (800, 5.0, 50), (80_000, 1.0, 100)])
def test_it_takes_a_tenth_of_the_steps_but_neither_few_nor_many(rows: int, epochs: float, steps: int, ask: Callable[..., TrainRequest]):
    assert range_steps(ask("counted", epochs=epochs).hyperparameters, rows=rows) == steps
