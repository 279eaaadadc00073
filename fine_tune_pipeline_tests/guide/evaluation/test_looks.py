"""Looks at the test rows, through the assets."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.guide.evaluation.assets import evaluation_report, predictions
from fine_tune_pipeline_tests.guide.evaluation.test_assets import TRAIN, World, checks
from fine_tune_pipeline_tests.guide.evaluation.world import RIGHT, before_evaluation, examples, use_case


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def judged(world: World, *, right: float = RIGHT["fine_tuned"], **objective: Any) -> dg.ExecuteInProcessResult:
    """Evaluate a model that is right so often; another share is another model, whose answers differ. Another goal asks it anew."""
    world.compute["right"] = {**RIGHT, "fine_tuned": right}
    spec = use_case(world.folder, objective={"goal": f"Turn a customer's message into intent and urgency, {right:.0%}", **objective})
    return world.run(spec, predictions, evaluation_report, raise_on_error=False)


def looks(world: World) -> int:
    return len(list((world.folder / "store" / ".looks").iterdir()))


def test_each_model_is_a_look_with_its_level_and_the_report_says_so(world: World):
    for number, (right, level) in enumerate([(0.80, 0.97), (0.85, 0.995), (0.90, 0.995)], start=1):
        judged(world, right=right)
        report = world.report()
        assert (report["look"]["number"], report["evidence"]["level"]) == (number, level)
        assert {verdict["level"] for verdict in report["verdicts"]} == {level}
        assert f"This is look {number} of 5 at these rows" in world.kept("evaluation_report", "report.md")
    assert looks(world) == 3


def test_the_same_answers_judged_again_are_the_same_look_even_when_the_report_is_lost(world: World):
    judged(world)
    first = world.report()
    judged(world, goal="Turn what a customer writes into intent and urgency")
    assert looks(world) == 1
    for folder in (world.folder / "store" / "triage" / "evaluation_report").iterdir():
        if folder.is_dir():
            (folder / "manifest.json").unlink()
    judged(world)
    assert world.report()["look"] == first["look"]
    assert looks(world) == 1


def test_another_criterion_is_another_look_at_the_same_answers(world: World):
    judged(world)
    judged(world, guards=[{"metric": "valid_json", "at_least": 0.7}])
    assert world.report()["look"]["number"] == 2


def test_the_sixth_model_cannot_be_told_and_fresh_rows_are_asked_for_until_they_come(world: World):
    for right in (0.80, 0.82, 0.84, 0.86, 0.88):
        assert checks(judged(world, right=right))["meets_objective"].passed
    found = checks(judged(world, right=0.95))
    assert not found["meets_objective"].passed
    assert not found["beats_base"].passed
    asked = "200 of 200 test rows have been looked at 5 times: their level is spent"
    assert asked in str(found["meets_objective"].description)
    assert "bring held-out rows that nobody has evaluated on" in str(found["beats_base"].description)
    assert {verdict["verdict"] for verdict in world.report()["verdicts"]} == {"cannot tell"}
    fresh = examples(200, start=5000)
    world.compute["answers"] = {row.id: row.completion for row in fresh}
    before_evaluation(world.store, train=TRAIN, test=fresh)
    assert checks(judged(world, right=0.96))["meets_objective"].passed
    assert world.report()["look"]["number"] == 1
