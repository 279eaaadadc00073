import math
import random

import pytest

from fine_tune_pipeline.programs.training.steadiness import ENOUGH, PATIENCE, WINDOW, Steadiness


def judged(losses: list[float], *, norm: float = 1.0) -> list[str | None]:
    judge = Steadiness()
    return [judge.objection(loss, norm) for loss in losses]


@pytest.mark.parametrize("seed", range(5))
def test_an_ordinary_training_is_never_objected_to(seed: int):
    """Losses that fall over four epochs, with the noise of small batches and a hard one now and then."""
    draw = random.Random(seed)
    losses = [5 * math.exp(-step / 30) + abs(draw.gauss(0.3, 0.2)) + 0.7 * (draw.random() < 0.02) for step in range(400)]
    assert judged(losses) == [None] * 400


def test_a_training_that_gets_slowly_worse_is_not_stopped():
    assert judged([1 + step / 50 for step in range(200)]) == [None] * 200


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_objected_to_from_the_first_step(loss: float):
    assert judged([loss]) == [f"the loss is {loss}"]


def test_a_gradient_that_is_no_number_too():
    assert judged([0.5], norm=math.inf) == ["the gradient's norm is inf, with a loss of 0.5"]


def test_a_leap_is_objected_to_when_there_are_enough_steps_to_compare_with():
    flat = [0.5 + 0.01 * (step % 3) for step in range(ENOUGH)]
    assert judged([*flat[:-1], 9.0])[-1] is None
    assert judged([*flat, 9.0])[-1] == f"the loss leaps to 9 from 0.51, the median of the last {ENOUGH} steps"


def test_what_is_skipped_is_not_compared_with_and_enough_of_it_is_enough():
    judge = Steadiness(tuple([0.5] * WINDOW))
    for number in range(PATIENCE):
        assert not judge.lost
        assert judge.objection(100.0 + number, 1.0) is not None
    assert judge.lost
    assert max(judge.losses) == 0.5
    assert judge.objection(0.4, 1.0) is None
    assert not judge.lost


def test_it_is_rebuilt_from_what_it_remembers():
    judge = Steadiness()
    for step in range(40):
        judge.objection(1 + step % 5, 1.0)
    again = Steadiness(tuple(judge.losses), judge.in_a_row)
    assert [judge.objection(loss, 1.0) for loss in (3.0, 90.0, 2.0)] == [again.objection(loss, 1.0) for loss in (3.0, 90.0, 2.0)]
