import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.guide.evaluation.assets import evaluation_report, predictions
from fine_tune_pipeline.guide.evaluation.buying import prompt_saving
from fine_tune_pipeline.guide.evaluation.predictions import Cost
from fine_tune_pipeline.programs.requests import PredictRequest, Request
from fine_tune_pipeline_tests.guide.evaluation.world import (
    RIGHT,
    PretendedCompute,
    before_evaluation,
    examples,
    put_index,
    resources,
    use_case,
)

TRAIN, TEST = examples(160, start=1000), examples(200)
CONTEXTS: dict[str, list[Any]] = {}


class Watched(PretendedCompute):
    """Keeps what each system was given beside its prompts."""

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type) -> Any:
        if isinstance(request, PredictRequest):
            CONTEXTS.update({job.name: [row.get("context", []) for row in read_rows(Path(job.prompts))] for job in request.jobs})
        return super().run(context, request, result)


def reported(folder: Path, *, right: dict[str, float] | None = None, hybrid: bool = False, **sections: Any) -> tuple[dict[str, Any], str]:
    """The report's JSON and Markdown of a run with these shares of right answers."""
    store = Store.at(str(folder / "store"))
    before_evaluation(store, train=TRAIN, test=TEST)
    if hybrid:
        put_index(store, TRAIN, test=TEST)
        sections["dataset"] = {"format": {"context": "retrieved"}}
    spec = use_case(folder, **sections)
    compute = Watched(answers={row.id: row.completion for row in TEST}, right={**RIGHT, "fine_tuned_without_context": 0.5, **(right or {})})
    dg.materialize([predictions(spec), evaluation_report(spec)], resources=resources(folder, compute), raise_on_error=False)
    artifact = store.peek("triage", "evaluation_report")
    assert artifact is not None
    return artifact.json("report.json"), artifact.file("report.md").read_text(encoding="utf-8")


def test_the_report_says_plainly_that_the_classifier_is_the_better_buy(tmp_path):
    # The pretended embeddings name the class, so the classifier is always right.
    report, text = reported(tmp_path)
    found = report["recommendation"]
    assert (found["choice"], found["meets"]) == ("classifier", True)
    assert found["sentence"].startswith("A plain classifier is the better buy: ")
    assert f"{found['sentence']}" in text
    lines = {line["system"]: line for line in found["seen"]}
    assert set(lines) == {"word_classifier", "classifier", *RIGHT}
    assert lines["fine_tuned"]["prompt tokens per request"] == 100
    assert lines["classifier"]["prompt tokens per request"] is None
    table = text.split("Prompt, retrieve or tune?")[1].split("\n#")[0]
    assert "prompt tokens per request" in table
    assert "the base model with what was looked up in its prompt" in table


def test_prices_of_the_place_are_shown_for_every_system(tmp_path):
    report, text = reported(
        tmp_path, environment={"prices": [{"device": "CPU", "per_hour": 3.6, "currency": "EUR", "as_of": "2026-11-01"}]}
    )
    lines = {line["system"]: line for line in report["recommendation"]["seen"]}
    assert lines["fine_tuned"]["cost per 1,000"] == pytest.approx(0.001 * lines["fine_tuned"]["seconds per 1,000"])
    assert "0.01 EUR" in text.split("Prompt, retrieve or tune?")[1].split("\n#")[0]


def test_a_decision_of_the_use_case_is_shown_beside_the_rule_and_the_checks_stay(tmp_path):
    reason = "The model will write the reply too"
    report, text = reported(tmp_path, evaluation={"override": {"recommendation": "fine_tune", "reason": reason}})
    found = report["recommendation"]
    assert (found["choice"], found["override"]["recommendation"]) == ("classifier", "fine_tune")
    assert f"The use case decides for fine_tune instead of classifier: {reason}." in found["sentence"]
    assert f"The use case decided otherwise: fine_tune ({reason})." in text
    assert report["verdicts"][0]["verdict"] == "met"


def test_a_model_that_was_trained_with_context_gets_it_and_is_shown_without_it_too(tmp_path):
    report, _ = reported(tmp_path, hybrid=True)
    assert {len(context) for context in CONTEXTS["fine_tuned"]} == {1}
    assert {len(context) for context in CONTEXTS["base_retrieval"]} == {2}
    assert {len(context) for context in CONTEXTS["fine_tuned_without_context"]} == {0}
    assert {"fine_tuned", "fine_tuned_without_context"} <= set(report["systems"])
    assert "fine_tuned_without_context" not in {line["system"] for line in report["recommendation"]["seen"]}


def test_what_tuning_saves_in_prompt_length_is_said_with_numbers():
    costs = [Cost("base_few_shot", 10, 1.0, prompt_tokens=4000), Cost("base_retrieval", 10, 1.0, prompt_tokens=1000)]
    costs += [Cost("fine_tuned", 10, 1.0, prompt_tokens=400), Cost("classifier", 10, 1.0)]
    assert prompt_saving(costs) == (
        "A request to the fine-tuned model has 40 prompt tokens: 360 (90%) fewer than the base model with examples in its prompt and "
        "60 (60%) fewer than the base model with what was looked up in its prompt."
    )
    assert prompt_saving(costs[2:]) == ""


def test_scores_that_more_rows_raised_ask_for_more_data(tmp_path):
    import random

    from fine_tune_pipeline.guide.evaluation.buying import growth
    from fine_tune_pipeline.guide.objective.task import read_task
    from fine_tune_pipeline_tests.guide.evaluation.world import put, wrong

    draw, right = random.Random(0), [row.completion for row in TEST]
    half = [{"id": row.id, "text": row.completion if place % 2 else wrong(row.completion, draw)} for place, row in enumerate(TEST)]
    store, spec = Store.at(str(tmp_path / "store")), use_case(tmp_path)
    made = put(store, "predictions", {"classifier_half.jsonl": half, "costs.json": {"train_rows": 160}})
    found = growth(made, TEST, right, spec=spec, task=read_task(spec), metric="exact_match")
    assert found is not None
    assert (found.rows, found.gain, found.goes_on) == (160, 0.5, True)
    assert found.lower is not None
    assert 0.4 < found.lower < 0.5
    none = put(store, "predictions", {"costs.json": {"train_rows": 160}}, made="without classes")
    assert growth(none, TEST, right, spec=spec, task=read_task(spec), metric="exact_match") is None
    assert json.loads(made.file("costs.json").read_text())["train_rows"] == 160
