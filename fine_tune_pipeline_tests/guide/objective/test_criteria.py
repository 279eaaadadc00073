from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.guide.objective.criteria import criterion_text, objective_problems
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.spec.objective import Criterion
from fine_tune_pipeline_tests.guide.objective.use_cases import use_case

OPEN = {"type": "generation"}
LABELS = {"type": "classification", "labels": ["a", "b"]}


def problems(folder: Path, *, rows: int | None = 200, **objective: Any) -> list[str]:
    spec = use_case(folder, **objective)
    return objective_problems(spec.objective, read_task(spec), held_out_rows=rows, columns={"channel"}, priced=False)


def test_objective_of_the_built_in_kind_can_be_measured(tmp_path: Path):
    success = [{"metric": "exact_match", "at_least": 0.65}, {"metric": "exact_match", "beats": "base_few_shot", "by": 0.1}]
    assert problems(tmp_path, success=success, guards=[{"metric": "valid_json", "at_least": 0.97}]) == []


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"success": [{"metric": "acuracy", "at_least": 0.5}]}, "'acuracy' is not one of a extraction task", "exact_match, field_match.intent"),
    ({"success": [{"metric": "exact_match", "at_least": 85}]}, "lies in 0 to 1, got at_least 85", "write 0.85 for 85 %"),
    ({"success": [{"metric": "exact_match", "at_least": -0.1}]}, "lies in 0 to 1", "choose a target inside"),
    ({"success": [{"metric": "exact_match", "at_least": 0}]}, "any model meets at_least 0", "can be missed"),
    ({"success": [{"metric": "exact_match", "at_most": 0.5}]}, "higher exact_match is better", "write at_least"),
    ({"task": OPEN, "success": [{"metric": "edit_rate", "at_least": 0.5}]}, "lower edit_rate is better", "write at_most"),
    ({"task": OPEN, "success": [{"metric": "rouge_l", "at_least": 0.3}], "guards": [{"metric": "length_ratio", "beats": "base_few_shot"}]},
     "objective.guards[0] (length_ratio beats base_few_shot)", "bound it with at_least and at_most"),
    ({"task": OPEN, "success": [{"metric": "rouge_l", "beats": "classifier"}]}, "has no classifier", "compare with base_few_shot"),
    ({"success": [{"metric": "exact_match", "at_least": 0.995}]}, "can never be met", "bring 700 held-out rows"),
    ({"success": [{"metric": "exact_match", "at_least": 1}]}, "can never be met", "choose a target that can"),
    ({"task": OPEN, "success": [{"metric": "edit_rate", "at_most": 0.001}]}, "can never be met", "held-out rows"),
    ({"success": [{"metric": "exact_match", "beats": "base_few_shot", "by": 0.02}]}, "below 0.095", "set `by` to 0.1 or more"),
    ({"success": [{"metric": "exact_match", "beats": "base_few_shot", "by": 1}]}, "no system can lead by 1", "choose a smaller"),
    ({"success": [{"metric": "valid_json", "at_least": 0.9}]}, "look at the form of an answer only", "add a criterion on exact_match"),
    ({"task": LABELS, "success": [{"metric": "valid_label", "at_least": 0.9}]}, "form of an answer", "add a criterion on accuracy"),
    ({"goal": "better answers"}, "has 2 words", "say what goes in"),
    ({"success": [{"metric": "validation_loss", "at_most": 1.5}]}, "a loss says how surprised a model is", "exact_match counts answers"),
    ({"success": [{"metric": "judge_score", "at_least": 0.8}]}, "a judge alone cannot carry a goal", "take exact_match"),
    ({"success": [{"metric": "latency", "at_most": 2}]}, "is not one of a extraction task", "write limits: {p95_latency_seconds"),
    ({"success": [{"metric": "human_win_rate", "at_least": 0.5}]}, "is not one of", "evaluation.human: {required: true"),
    ({"task": OPEN, "success": [{"metric": "bertscore", "at_least": 0.5}]}, "is not one of", "similarity stands in for it"),
    ({"success": [{"metric": "exact_macht", "at_least": 0.5}]}, "is not one of", "did you mean exact_match?"),
    ({"task": LABELS, "success": [{"metric": "recall.c", "at_least": 0.5}]}, "'c' is not a label of the task", "recall.<label>"),
    ({"success": [{"metric": "exact_match", "at_least": 0.6}] * 2}, "objective.success[0] says the same", "keep one of them"),
    ({"success": [{"metric": "exact_match", "at_least": 0.6}, {"metric": "exact_match", "at_least": 0.7}]},
     "asks the same with another number", "keep that one"),
    ({"success": [{"metric": "exact_match", "at_least": 0.6}], "guards": [{"metric": "exact_match", "at_least": 0.5}]},
     "objective.guards[0] (exact_match at least 0.5): objective.success[0]", "keep that one"),
    ({"success": [{"metric": "exact_match", "beats": "majority"}, {"metric": "exact_match", "beats": "majority", "by": 0.2}]},
     "asks the same with another number", "keep that one"),
    ({"task": OPEN, "success": [{"metric": "rouge_l", "at_least": 0.3}],
      "guards": [{"metric": "length_ratio", "at_least": 2.0}, {"metric": "length_ratio", "at_most": 1.5}]},
     "asks for the contrary", "give at_most the larger number"),
    ({"success": [{"metric": "exact_match", "versus": "base", "margin": 0.2}]}, "asks only not to be worse", "at_least or beats"),
    ({"success": [{"metric": "exact_match", "at_least": 0.6}], "guards": [{"metric": "valid_json", "versus": "base"}]},
     "cannot be shown to be within 0", "set `margin` to 0.06 or more"),
    ({"success": [{"metric": "exact_match", "at_least": 0.6}], "guards": [{"metric": "valid_json", "versus": "base", "margin": 0.02}]},
     "cannot be shown to be within 0.02", "bring 1540 held-out rows"),
    ({"success": [{"metric": "exact_match", "at_least": 0.6}], "guards": [{"metric": "valid_json", "versus": "base", "margin": 1}]},
     "any model meets a margin of 1", "choose a smaller one"),
    ({"task": OPEN, "success": [{"metric": "rouge_l", "at_least": 0.3}],
      "guards": [{"metric": "rouge_l", "versus": "classifier", "margin": 0.2}]},
     "has no classifier", "compare with base_few_shot"),
    ({"success": [{"metric": "exact_match", "at_least": 0.6, "slice": {"where": {"chanel": "email"}}}]},
     "no source of test rows keeps the column 'chanel' (kept: channel)", "name it under `metadata`"),
    ({"success": [{"metric": "exact_match", "at_least": 0.6}],
      "guards": [{"metric": "general_loss", "versus": "champion", "margin": 0.05}]},
     "compared with the base model alone", "write versus: base"),
    ({"limits": {"cost_per_1000": 0.4}}, "nothing says what answers cost", "environment.prices"),
    ({"goal": "Make our AI model much better and more accurate"}, "says how good but not what", "say what goes in"),
]  # fmt: skip


@pytest.mark.parametrize(("objective", "seen", "proposal"), REFUSED)
def test_what_cannot_be_measured_is_refused_with_a_proposal(tmp_path: Path, objective: dict[str, Any], seen: str, proposal: str):
    found = problems(tmp_path, **objective)
    assert len(found) == 1
    assert seen in found[0]
    assert proposal in found[0]


def test_all_problems_are_told_at_once_with_their_place(tmp_path: Path):
    found = problems(
        tmp_path,
        goal="nice",
        success=[{"metric": "blue", "at_least": 0.5}, {"metric": "exact_match", "at_least": 2}],
        guards=[{"metric": "valid_json", "at_most": 0.5}],
    )
    places = ["objective.goal", "objective.success[0]", "objective.success[1]", "objective.guards[0]"]
    assert len(found) == 4
    assert all(said.startswith(place) for said, place in zip(found, places, strict=True))


def test_what_depends_on_the_test_set_waits_until_its_size_is_known(tmp_path: Path):
    success = [{"metric": "exact_match", "at_least": 0.999}, {"metric": "exact_match", "beats": "majority", "by": 0.01}]
    assert problems(tmp_path, rows=None, success=success) == []
    assert len(problems(tmp_path, rows=200, success=success)) == 2


def test_beating_by_any_margin_is_a_fair_demand(tmp_path: Path):
    assert problems(tmp_path, rows=50, success=[{"metric": "exact_match", "beats": "base_few_shot"}]) == []


@pytest.mark.parametrize(
    "goal",
    [
        "Route incoming support mail to the team that can solve it",
        "Fasse Quartalszahlen aus Telefonkonferenzen als JSON zusammen",
        "将客户的留言分类并转给合适的团队",
    ],
)
def test_goals_that_say_what_are_taken_in_any_language(tmp_path: Path, goal: str):
    assert problems(tmp_path, goal=goal) == []


def test_the_same_demand_on_another_slice_or_rival_is_no_repetition(tmp_path: Path):
    mail = {"slice": {"where": {"channel": "mail"}}}
    success = [
        {"metric": "exact_match", "at_least": 0.6},
        {"metric": "exact_match", "at_least": 0.5, **mail},
        {"metric": "exact_match", "beats": "majority"},
        {"metric": "exact_match", "beats": "base_few_shot"},
    ]
    assert problems(tmp_path, success=success) == []


def test_criterion_reads_as_people_say_it():
    guard = Criterion(metric="valid_json", versus="base", margin=0.1)
    assert criterion_text(guard) == "valid_json not worse than base by more than 0.1"
    sliced = Criterion.model_validate(
        {"metric": "exact_match", "at_least": 0.5, "slice": {"where": {"channel": ["mail", "app"], "lang": "de"}}}
    )
    assert criterion_text(sliced) == "exact_match at least 0.5 where channel mail or app, lang de"
    assert criterion_text(Criterion(metric="exact_match", at_least=0.65)) == "exact_match at least 0.65"
    assert criterion_text(Criterion(metric="edit_rate", at_most=0.1)) == "edit_rate at most 0.1"
    assert criterion_text(Criterion(metric="exact_match", beats="classifier", by=0.05)) == "exact_match beats classifier by 0.05"
    assert criterion_text(Criterion(metric="exact_match", beats="classifier")) == "exact_match beats classifier"
