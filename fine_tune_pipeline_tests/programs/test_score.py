import json
import random
import socket
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from sklearn.metrics import f1_score

from fine_tune_pipeline.guide.objective.metrics import allowed_metrics, metric_named, score_one, scorer
from fine_tune_pipeline.guide.objective.task import Task, classification, extraction
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.rows import BadRows
from fine_tune_pipeline.programs.score import AnswerScore, MeanScore, run
from fine_tune_pipeline.programs.score_requests import ScoreRequest, ScoreResult
from fine_tune_pipeline_tests.programs.launching import launch


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def scored(count: int) -> list[dict[str, Any]]:
    chance = random.Random(0)
    return [
        {"system": system, "id": str(index), "exact_match": chance.randint(0, 1), "field_f1": chance.random() * 10**power}
        for system, power in (("base", 0), ("tuned", -9))
        for index in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> ScoreRequest:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ScoreRequest(output=str(path.parent), scores=str(path))


def numpy_means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        system: {name: float(np.mean([row[name] for row in rows if row["system"] == system])) for name in ("exact_match", "field_f1")}
        for system in ("base", "tuned")
    }


@pytest.mark.parametrize("count", [1, 3, 500])
def test_means_equal_numpys(count: int, tmp_path: Path):
    rows = scored(count)
    result = run(write_rows(tmp_path / "scores.jsonl", rows), Reporter(None))
    for system, metrics in numpy_means(rows).items():
        assert result.means[system] == pytest.approx(metrics, rel=1e-12)


def test_the_program_writes_the_means_without_a_network(tmp_path: Path):
    rows = scored(20)
    result = ScoreResult.read(launch(write_rows(tmp_path / "scores.jsonl", rows)))
    assert result.means["tuned"] == pytest.approx(numpy_means(rows)["tuned"])


def test_the_metric_is_one_of_evaluate_and_checks_the_type_of_its_inputs(tmp_path: Path):
    metric = MeanScore(config_name="accuracy", keep_in_memory=True, cache_dir=str(tmp_path))
    assert isinstance(metric, evaluate.Metric)
    assert metric.compute(scores=[1, 0, 0, 1]) == {"accuracy": 0.5}
    with pytest.raises(ValueError):
        metric.compute(scores=["yes", "no"])


def test_systems_may_have_different_metrics(tmp_path: Path):
    rows = [{"system": "a", "id": "1", "x": 1}, {"system": "b", "id": "1", "y": 0.5}]
    assert run(write_rows(tmp_path / "scores.jsonl", rows), Reporter(None)).means == {"a": {"x": 1.0}, "b": {"y": 0.5}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"system": "a", "id": "1", "x": 1}, {"system": "a", "id": "2"}], "only 1 of the 2 rows of 'a' have x"),
        ([{"system": "a", "id": "1", "x": None}], "x of '1' of 'a' is None, want a finite number"),
        ([{"system": "a", "id": "1", "x": float("nan")}], "x of '1' of 'a' is nan, want a finite number"),
        ([{"system": "a", "id": "1", "x": 1}, {"system": "a", "id": "1", "x": 0}], ":2: system and id a / 1 is also in line 1"),
        ([{"id": "1", "x": 1}], ":1: want system as text"),
    ],
    ids=["metric in some rows only", "no number", "not finite", "row twice", "no system"],
)
def test_scores_that_would_give_a_wrong_mean_are_refused(rows: list[dict[str, Any]], message: str, tmp_path: Path):
    with pytest.raises(BadRows, match=message):
        run(write_rows(tmp_path / "scores.jsonl", rows), Reporter(None))


def macro_f1_rows(count: int) -> list[dict[str, Any]]:
    """For a metric of all rows together: the classes that were wanted and given, of one system."""
    chance = random.Random(4)
    return [{"system": "tuned", "id": str(index), "macro_f1": [chance.randint(0, 2), chance.randint(-1, 2)]} for index in range(count)]


def test_a_metric_of_all_rows_together_comes_from_their_numbers(tmp_path: Path):
    rows = macro_f1_rows(50)
    scores = [{"system": "tuned", "id": row["id"], "macro_f1": float(row["macro_f1"][0] == row["macro_f1"][1])} for row in rows]
    request = write_rows(tmp_path / "scores.jsonl", scores)
    (tmp_path / "statistics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    together = {"statistics": str(tmp_path / "statistics.jsonl"), "value": "fine_tune_pipeline.guide.objective.metrics:corpus_value"}
    wanted, given = ([row["macro_f1"][place] for row in rows] for place in (0, 1))
    theirs = f1_score(wanted, given, labels=[0, 1, 2], average="macro")
    result = run(request.model_copy(update=together), Reporter(None))
    assert result.means == {"tuned": {"macro_f1": pytest.approx(theirs)}}


def test_a_metric_that_is_about_some_rows_is_averaged_over_those(tmp_path: Path):
    rows = [{"system": "a", "id": "1", "x": 1, "recall.b": 0}, {"system": "a", "id": "2", "x": 0}, {"system": "a", "id": "3", "x": 0}]
    request = write_rows(tmp_path / "scores.jsonl", rows).model_copy(update={"partial": ("recall.b",)})
    assert run(request, Reporter(None)).means == {"a": {"x": pytest.approx(1 / 3), "recall.b": 0.0}}


TASKS = [
    Task("question_answering"),
    classification(["red", "blue"]),
    extraction({"type": "object", "properties": {"a": {"type": "number"}}}),
]
ANSWERS = ["red", "blue", '{"a": 1}', "the blue house", "", "I cannot help with that."]


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_of_answers_alone_is_one_of_evaluate(task: Task, tmp_path: Path):
    names = [name for name in allowed_metrics(task) if metric_named(name, task).plain]
    made = [
        AnswerScore(
            scorer({"task": task.described(), "metric": name}),
            config_name=name,
            keep_in_memory=True,
            cache_dir=str(tmp_path),
            experiment_id=str(place),
        )
        for place, name in enumerate(names)
    ]
    predictions = [one for one in ANSWERS for _ in ANSWERS]
    references = ANSWERS * len(ANSWERS)
    computed = evaluate.combine(made).compute(predictions=predictions, references=references)
    pairs = list(zip(predictions, references, strict=True))
    each = [score_one(one, other, task=task, metrics=names) for one, other in pairs]
    assert computed == {name: pytest.approx(sum(scores[name] for scores in each) / len(each)) for name in names}
