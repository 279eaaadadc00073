import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from fine_tune_pipeline.guide.evaluation.analysis.calibration import calibration, calibration_error
from fine_tune_pipeline.guide.evaluation.analysis.given import NotAvailable
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline_tests.guide.evaluation.analysis.make import fruit, given, no_nan

DRAW = np.random.default_rng(0)
SURE = DRAW.random(200)
RIGHT = DRAW.random(200) < SURE**2
TEST = fruit(200)
OWN = [row.completion if well else "?" for row, well in zip(TEST, RIGHT, strict=True)]


def brute(sure: np.ndarray, right: np.ndarray) -> float:
    """Row by row, bin by bin."""
    edges = np.quantile(sure, np.linspace(0, 1, 11))
    total = 0.0
    for number in range(10):
        low, high = edges[number], edges[number + 1]
        inside = [place for place in range(len(sure)) if (low < sure[place] <= high) or (number == 0 and sure[place] == low)]
        if inside:
            total += len(inside) / len(sure) * abs(np.mean(sure[inside]) - np.mean(right[inside]))
    return total


def test_the_bins_are_scikit_learns():
    bins = calibration(given(TEST, OWN, sure=SURE.tolist()))["systems"]["fine_tuned"]["bins"]
    right, mean = calibration_curve(RIGHT, SURE, n_bins=10, strategy="quantile")
    assert [one["right"]["estimate"] for one in bins] == pytest.approx(right.tolist())
    assert [one["probability"] for one in bins] == pytest.approx(mean.tolist())
    assert [one["right"]["n"] for one in bins] == [20] * 10


def test_the_error_is_the_one_of_brute_force_and_lies_in_its_interval():
    found = calibration(given(TEST, OWN, sure=SURE.tolist()))["systems"]["fine_tuned"]
    assert found["ece"]["estimate"] == pytest.approx(brute(SURE, RIGHT))
    assert found["ece"]["low"] < found["ece"]["estimate"] < found["ece"]["high"]
    assert found["overconfidence"]["estimate"] == pytest.approx(SURE.mean() - RIGHT.mean())
    assert found["overconfidence"]["low"] > 0


def test_equal_probabilities_are_never_parted():
    sure = np.repeat([0.5, 0.9, 1.0], [20, 60, 120])
    right = np.arange(200) % 4 > 0
    assert calibration_error(np.column_stack([sure, right])) == pytest.approx(brute(sure, right))
    bins = calibration(given(TEST, OWN, sure=sure.tolist()))["systems"]["fine_tuned"]["bins"]
    assert [one["right"]["n"] for one in bins] == [20, 60, 120]


def test_all_right_and_all_sure_has_an_error_of_nought_and_a_bound():
    found = calibration(given(TEST, [row.completion for row in TEST], sure=[1.0] * 200))["systems"]["fine_tuned"]
    assert (found["ece"]["estimate"], len(found["bins"])) == (0.0, 1)
    assert 0 < found["ece"]["high"] < 0.05
    assert no_nan(found)


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        (200, {}, "no system says how probable"),
        (19, {"sure": [0.5] * 19}, "19 test rows, want at least 20"),
        (200, {"sure": [0.5] * 200, "task": Task(type="generation"), "metric": "token_f1"}, "not plainly right or wrong"),
    ],
)
def test_what_cannot_be_held_against_anything_is_said(rows: int, more: dict, said: str):
    with pytest.raises(NotAvailable, match=said):
        calibration(given(TEST[:rows], OWN[:rows], **more))
