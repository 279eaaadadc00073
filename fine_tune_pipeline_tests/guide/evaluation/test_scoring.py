from dataclasses import replace

import pytest

from fine_tune_pipeline.guide.evaluation.scoring import ScoreMismatch, check_means, headline_metric, reported_metrics, score_rows, scored
from fine_tune_pipeline.guide.objective.task import Task, classification, extraction
from fine_tune_pipeline.spec.objective import Criterion, ObjectiveSpec
from fine_tune_pipeline_tests.guide.evaluation.world import SCHEMA, examples

TASK = extraction(SCHEMA)
ROWS = examples(8)
METRICS = ["exact_match", "field_match.intent", "valid_json"]
GIVEN = scored(ROWS, {"base": ["{}"] * 8, "own": [row.completion for row in ROWS]}, task=TASK, metrics=METRICS)


def test_scores_stand_in_the_order_of_the_rows_under_system_and_metric():
    assert GIVEN.of("own", "exact_match") == [1.0] * 8
    assert (GIVEN.mean("base", "exact_match"), GIVEN.mean("base", "valid_json")) == (0.0, 1.0)
    assert GIVEN.gains("own", "field_match.intent", over="base") == [1.0] * 8


def test_score_rows_are_flat_and_complete():
    rows = list(score_rows(GIVEN))
    assert len(rows) == 16
    assert rows[0] == {"system": "base", "id": "r0", "exact_match": 0.0, "field_match.intent": 0.0, "valid_json": 1.0}


def test_rows_of_one_cluster_share_their_fate_and_others_stand_alone():
    rows = [replace(row, metadata={"cluster": "c1"} if place < 3 else {}) for place, row in enumerate(ROWS)]
    clusters = replace(GIVEN, rows=rows).clusters
    assert len(set(clusters)) == 6
    assert clusters[:3] == ["c1"] * 3


def test_means_of_evaluate_must_be_ours():
    means = {system: {metric: GIVEN.mean(system, metric) for metric in METRICS} for system in GIVEN.by_system}
    check_means(GIVEN, means)
    means["own"]["valid_json"] -= 1e-6
    with pytest.raises(ScoreMismatch, match="valid_json of own"):
        check_means(GIVEN, means)
    del means["base"]
    with pytest.raises(ScoreMismatch, match="says None"):
        check_means(GIVEN, means)


def test_part_keeps_rows_and_scores_together():
    part = GIVEN.part([1, 5])
    assert [row.id for row in part.rows] == ["r1", "r5"]
    assert part.of("own", "exact_match") == [1.0, 1.0]


def test_reported_metrics_are_the_tasks_and_those_that_are_asked_for():
    criterion = Criterion(metric="edit_rate", at_most=0.5)
    objective = ObjectiveSpec.model_validate({"goal": "x", "task": {"type": "generation"}, "success": [criterion]})
    assert reported_metrics(Task(type="generation"), objective) == ["token_f1", "rouge_l", "chrf", "length_ratio", "refusal", "edit_rate"]


def test_headline_is_the_whole_answer_where_that_means_something():
    assert headline_metric(TASK) == headline_metric(classification(["a", "b"])) == "exact_match"
    assert headline_metric(Task(type="generation")) == "token_f1"
