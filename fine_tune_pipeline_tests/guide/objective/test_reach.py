from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.looks import Look
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.guide.objective.evidence import smallest_detectable_gain
from fine_tune_pipeline.guide.objective.reach import shown_by_test_rows
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline_tests.guide.objective.use_cases import use_case

LABELS = {"type": "classification", "labels": ["card", "refund", "login"]}


def rows(*, card: int, refund: int, login: int = 0, mail: int = 0) -> list[Example]:
    """Test rows of three classes, the first `mail` of which came by mail and the others by app."""
    labels = ["card"] * card + ["refund"] * refund + ["login"] * login
    return [Example(str(place), "?", label, metadata={"channel": "mail" if place < mail else "app"}) for place, label in enumerate(labels)]


def shown(folder: Path, test: list[Example], **objective: Any) -> Built:
    spec = use_case(folder, **{"task": LABELS, "success": [{"metric": "accuracy", "at_least": 0.6}], **objective})
    return shown_by_test_rows(spec.objective, read_task(spec), test, look=Look(1, len(test), 0))


def check(built: Built, name: str = "objective_reachable") -> Check:
    return next(one for one in built.checks if one.name == name)


def test_the_gain_that_the_rows_show_is_told_before_anything_is_trained(tmp_path: Path):
    built = shown(tmp_path, rows(card=100, refund=100), evidence={"smallest_gain": 0.15})
    # The first look spends .03 of the .05.
    expected = smallest_detectable_gain(200, level=0.97, power=0.8).gain
    assert built.metadata["smallest_detectable_gain"] == pytest.approx(expected, abs=1e-4)
    assert [one.passed for one in built.checks] == [True, True]
    few = shown(tmp_path, rows(card=10, refund=10), evidence={"smallest_gain": 0.15})
    warning = check(few, "test_set_shows_gain")
    assert not warning.passed
    assert not warning.blocking
    assert "bring more held-out rows" in warning.description


REFUSED: list[tuple[list[Example], dict[str, Any], str, str]] = [
    (rows(card=90, refund=10), {"success": [{"metric": "accuracy", "at_least": 0.85}]},
     "always answering 'card', the most frequent answer, reaches 0.900 already", "macro_f1"),
    (rows(card=90, refund=10), {"success": [{"metric": "accuracy", "beats": "majority", "by": 0.2}]},
     "nothing can lead it by 0.2", "choose a smaller `by`"),
    (rows(card=6, refund=5), {"success": [{"metric": "accuracy", "at_least": 0.85}]}, "can never be met", "bring 22 held-out rows"),
    (rows(card=40, refund=60), {"success": [{"metric": "accuracy", "beats": "base_few_shot", "by": 0.05}]},
     "a gain of 0.05 is below", "bring 736 held-out rows"),
    (rows(card=50, refund=50, mail=20), {"success": [{"metric": "accuracy", "at_least": 0.6, "slice": {"where": {"channel": "mail"}}}]},
     "20 of 100 test rows are judged, want at least 50", "lower evidence.minimum_slice"),
    (rows(card=50, refund=50), {"success": [{"metric": "accuracy", "at_least": 0.6, "slice": {"where": {"channel": "fax"}}}]},
     "0 of 100 test rows are judged", "its rows have channel app"),
    (rows(card=50, refund=50), {"success": [{"metric": "accuracy", "at_least": 0.6, "slice": {"where": {"tier": "gold"}}}]},
     "no test row has the column tier", "under `metadata`"),
    (rows(card=80, refund=80, login=10), {"success": [{"metric": "recall.login", "at_least": 0.6}]},
     "10 of 170 test rows are judged", "bring more of them"),
    (rows(card=50, refund=50), {"task": {"type": "preference"}, "success": [{"metric": "rouge_l", "beats": "base_few_shot"}]},
     "no test row has a rejected answer", "`layout: preference`"),
    (rows(card=50, refund=50), {"evidence": {"cluster_by": "customer"}}, "no test row has 'customer' (there are: channel)", "`metadata`"),
]  # fmt: skip


@pytest.mark.parametrize(("test", "objective", "seen", "proposal"), REFUSED)
def test_what_the_rows_make_impossible_or_trivial_is_refused_with_a_proposal(
    tmp_path: Path, test: list[Example], objective: dict[str, Any], seen: str, proposal: str
):
    found = check(shown(tmp_path, test, **objective))
    assert not found.passed
    assert found.blocking
    assert found.metadata["problems"] == 1
    assert seen in found.description
    assert proposal in found.description


def test_rare_classes_make_a_goal_that_the_majority_does_not_meet(tmp_path: Path):
    test = rows(card=90, refund=60, login=60)
    assert check(shown(tmp_path, test, success=[{"metric": "macro_f1", "at_least": 0.5}])).passed


def test_a_guard_may_be_met_by_any_answer(tmp_path: Path):
    test = rows(card=60, refund=60)
    assert check(shown(tmp_path, test, guards=[{"metric": "valid_label", "at_least": 0.9}])).passed


def test_a_slice_that_is_large_enough_is_judged_and_counted(tmp_path: Path):
    success = [{"metric": "accuracy", "at_least": 0.7, "slice": {"where": {"channel": ["mail", "fax"]}}}]
    built = shown(tmp_path, rows(card=60, refund=60, mail=90), success=success, evidence={"minimum_slice": 80, "smallest_gain": 0.2})
    assert check(built).passed
    assert built.metadata["criteria_rows"] == [{"criterion": "accuracy at least 0.7 where channel mail or fax", "test rows": 90}]


def test_an_empty_test_set_is_left_to_the_step_that_needs_it(tmp_path: Path):
    assert [one.passed for one in shown(tmp_path, []).checks] == [True, True]
