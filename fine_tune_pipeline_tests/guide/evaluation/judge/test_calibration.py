"""When a judge is believed: enough rows, agreement beyond chance, and about as much of it as between people."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from fine_tune_pipeline.guide.evaluation.human.judgements import Judgement
from fine_tune_pipeline.guide.evaluation.human.pairs import Secret
from fine_tune_pipeline.guide.evaluation.judge.asking import Judged, Said
from fine_tune_pipeline.guide.evaluation.judge.calibration import JudgeResult, between_people, judge_result, people_by_row

ORDERS: dict[float, tuple[Said, Said]] = {1.0: ("A", "B"), 0.0: ("B", "A"), 0.5: ("tie", "tie")}


def judged(points: list[float]) -> list[Judged]:
    return [Judged(f"r{number}", *ORDERS[value]) for number, value in enumerate(points)]


def held_against(points: list[float], people: list[float], *, between: float | None = None) -> JudgeResult:
    said = {f"r{number}": value for number, value in enumerate(people)}
    return judge_result(judged(points), said, between=between, level=0.95, seed=0)


def drawn(rows: int, same: float, seed: int = 0) -> tuple[list[float], list[float]]:
    draw = np.random.default_rng(seed)
    people = draw.choice([0.0, 0.5, 1.0], size=rows)
    return [float(own if draw.random() < same else draw.choice([0.0, 0.5, 1.0])) for own in people], [float(own) for own in people]


@pytest.mark.parametrize("seed", range(5))
def test_agreement_and_kappa_are_those_of_the_rated_rows(seed: int):
    points, people = drawn(120, 0.7, seed)
    found = held_against(points, people[:80]).calibration
    assert found.rated == 80
    assert found.agreement is not None
    assert found.agreement.estimate == pytest.approx(np.mean(np.array(points[:80]) == np.array(people[:80])))
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(cohen_kappa_score([str(one) for one in points[:80]], [str(one) for one in people[:80]]))


@pytest.mark.parametrize(("rated", "calibrated"), [(0, False), (49, False), (50, True)])
def test_fewer_than_fifty_rated_rows_calibrate_nothing(rated: int, calibrated: bool):
    points, people = drawn(100, 0.9)
    found = held_against(points, people[:rated])
    assert found.calibration.calibrated == calibrated
    assert (found.corrected is not None) == (found.lower is not None) == calibrated
    assert found.alone is not None
    assert (found.calibration.doubt is None) == calibrated
    if not calibrated:
        assert found.calibration.doubt == f"uncalibrated: people rated {rated} of the 50 test rows that it needs"


def test_a_judge_that_guesses_is_not_believed():
    points, people = drawn(100, 0.0)
    assert held_against(points, people).calibration.doubt == "it does not agree with people beyond chance"


@pytest.mark.parametrize(("between", "believed"), [(None, True), (0.65, True), (0.95, False)])
def test_a_judge_must_agree_with_people_about_as_they_do_with_each_other(between: float | None, believed: bool):
    points, people = drawn(100, 0.7)
    assert (held_against(points, people, between=between).calibration.doubt is None) == believed


def test_how_often_the_order_decided_is_told():
    found = judge_result(
        [Judged("r0", "A", "A"), Judged("r1", "B", "B"), Judged("r2", "A", "B"), Judged("r3", "tie", "A")],
        {},
        between=None,
        level=0.95,
        seed=0,
    )
    assert found.flips is not None
    assert found.flips.estimate == 0.5


def test_people_are_asked_by_row_and_compared_by_pair():
    key = {
        "p1": Secret("r1", "fine_tuned", "base"),
        "p2": Secret("r1", "base", "fine_tuned", repeats="p1"),
        "p3": Secret("r2", "fine_tuned", "base"),
    }
    said = [("p1", "A", "ann"), ("p2", "A", "ann"), ("p3", "A", "ann"), ("p1", "A", "bob"), ("p3", "B", "bob"), ("p3", "B", "cid")]
    judgements = [Judgement(*one) for one in said]  # type: ignore[arg-type]
    assert people_by_row(judgements, key) == {"r1": pytest.approx(2 / 3), "r2": pytest.approx(1 / 3)}
    # p1: one of one; p3: Bob and Cid of three.
    assert between_people(judgements, key) == pytest.approx((1 + 1 / 3) / 2)
    assert between_people(judgements[:3], key) is None
