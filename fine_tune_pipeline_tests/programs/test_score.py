import json
import random
import socket
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest

from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import ScoreRequest, ScoreResult
from fine_tune_pipeline.programs.rows import BadRows
from fine_tune_pipeline.programs.score import MeanScore, run
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
