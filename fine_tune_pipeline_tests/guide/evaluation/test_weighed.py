from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import Example, read_rows
from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.guide.evaluation.assets import evaluation_report, predictions
from fine_tune_pipeline.guide.evaluation.weighed import NoLikelihoods
from fine_tune_pipeline_tests.guide.evaluation.bare_numbers import bare
from fine_tune_pipeline_tests.guide.evaluation.world import PretendedCompute, before_evaluation, examples, resources, use_case

COMPARED = [replace(row, rejected="no") if place < 150 else row for place, row in enumerate(examples(200))]


def run(folder: Path, test: list[Example], *, metric: str = "preference_accuracy", report: bool = True) -> Store:
    """Predictions and, if wanted, their report, on a store with everything before them."""
    success = [{"metric": metric, "at_least": 0.6}, {"metric": metric, "beats": "base_few_shot", "by": 0.1}]
    objective: dict[str, Any] = {"task": {"type": "preference"}, "success": success, "guards": []}
    store = Store.at(str(folder / "store"))
    before_evaluation(store, train=examples(160, start=1000), test=test)
    spec = use_case(folder, objective=objective)
    compute = PretendedCompute(answers={row.id: row.completion for row in test})
    assets = [predictions(spec), evaluation_report(spec)] if report else [predictions(spec)]
    dg.materialize(assets, resources=resources(folder, compute))
    return store


def test_the_gate_judges_how_likely_given_answers_are_on_the_rows_that_have_two(tmp_path: Path):
    store = run(tmp_path, COMPARED)
    report = store.current("triage", "evaluation_report").json("report.json")
    weighed = read_rows(store.current("triage", "predictions").file("fine_tuned.weighed.jsonl"))
    assert [row["id"] for row in weighed] == [row.id for row in COMPARED[:150]]
    own = report["systems"]["fine_tuned"]["preference_accuracy"]
    assert own["estimate"] == pytest.approx(sum(row["preferred_logprob"] > row["rejected_logprob"] for row in weighed) / 150)
    assert own["n"] == 150
    assert own["low"] < own["estimate"] < own["high"]
    # It gives no probability, so it cannot tell.
    assert report["systems"]["majority"]["preference_accuracy"]["estimate"] == 0.5
    assert [verdict["verdict"] for verdict in report["verdicts"]] == ["met", "met"]
    assert report["outcome"]["n"] == 150
    assert bare(report) == []


def test_nothing_is_weighed_unless_a_criterion_asks_for_it(tmp_path: Path):
    store = run(tmp_path, COMPARED, metric="nearer_to_preferred", report=False)
    files = store.current("triage", "predictions").manifest.files
    assert "fine_tuned.jsonl" in files
    assert not [name for name in files if "weighed" in name]


def test_test_rows_without_a_second_answer_are_refused_before_anything_is_answered(tmp_path: Path):
    with pytest.raises(NoLikelihoods, match="none of 200 test rows has a rejected answer"):
        run(tmp_path, examples(200))


def test_a_hosted_model_is_refused_with_what_to_take_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fine_tune_pipeline.guide.evaluation.weighed.read_hosted", lambda model: object())
    with pytest.raises(NoLikelihoods, match="take nearer_to_preferred in place of preference_accuracy"):
        run(tmp_path, COMPARED)
