"""A use case whose base model is hosted, and a compute that runs the programs of hosted models for real, the others by rule."""

import importlib
import json
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

import dagster as dg

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.guide.base_model.assets import base_model
from fine_tune_pipeline.guide.environment.assets import environment
from fine_tune_pipeline.guide.evaluation.assets import predictions
from fine_tune_pipeline.guide.technique.assets import baselines, retrieval_index, training_plan
from fine_tune_pipeline.guide.training.assets import adapter
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import Request
from fine_tune_pipeline.programs.score_requests import ScoreRequest, ScoreResult
from fine_tune_pipeline.resources.compute.base import ResultT
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline_tests.guide.technique.stand_ins import (
    WORDS,
    RuleCompute,
    answer,
    artifact_store,
    examples,
    kept_dataset,
    upstream_assets,
    use_case,
)
from fine_tune_pipeline_tests.hosted.stand_in import MODEL, VARIABLE, Content, Provider

ASSETS = (base_model, retrieval_index, baselines, training_plan, environment, adapter, predictions)
TERMS = "LicenseRef-Test-Terms"
PRICES = {"train": 25.0, "input": 0.4, "output": 1.6, "as_of": "2026-11-01", "source": "the provider's page"}


class HostedCompute(RuleCompute):
    """Runs the programs of hosted models in this process."""

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type[ResultT]) -> ResultT:
        if isinstance(request, ScoreRequest):
            return result.model_validate(means_of(read_rows(Path(request.scores))).model_dump())
        if ".hosted." not in request.module:
            return super().run(context, request, result)
        answer = importlib.import_module(request.module).run(request, Reporter(None))
        assert isinstance(answer, result)
        return answer


def means_of(rows: list[dict[str, Any]]) -> ScoreResult:
    """What `evaluate` would say."""
    systems = {row["system"]: [other for other in rows if other["system"] == row["system"]] for row in rows}
    metrics = [name for name in rows[0] if name not in ("system", "id")]
    return ScoreResult(means={name: {metric: fmean(row[metric] for row in own) for metric in metrics} for name, own in systems.items()})


def candidate(provider: Provider, **changes: Any) -> dict[str, Any]:
    """The hosted model as a use case names it."""

    prices = {**PRICES, "as_of": date.fromisoformat(str(PRICES["as_of"]))}
    return {
        "type": "api",
        "id": "mini",
        "model": MODEL,
        "base_url": provider.url,
        "api_key_variable": VARIABLE,
        "licence": TERMS,
        "prices": prices,
        "requests_at_once": 4,
        "poll_seconds": 0.001,
        **changes,
    }


def hosted_use_case(folder: Path, provider: Provider, *, sections: dict[str, Any] | None = None, **changes: Any) -> UseCaseSpec:
    """The small use case of the technique's tests, with a hosted base model."""
    base = {"candidates": [candidate(provider, **changes)], "accept_licences": [TERMS]}
    return use_case(folder, base_model=base, **(sections or {}))


def given_data(folder: Path) -> None:
    """Dataset, ready to be learned."""
    kept_dataset(artifact_store(folder), examples(copies=4), examples(copies=2, prefix="validation"))


def materialize(
    folder: Path, spec: UseCaseSpec, *, runs: Path, only: Any = ASSETS, compute: Any = None, **more: Any
) -> dg.ExecuteInProcessResult:
    """The steps that a hosted model changes, on an ephemeral instance.

    Args:
        runs: MLflow's file; making one takes seconds, so tests share it.
        more: resources of later steps.
    """
    names = {factory.__name__ for factory in only}
    others = [name for name in ("objective", "dataset", *(factory.__name__ for factory in ASSETS)) if name not in names]
    return dg.materialize(
        [*(factory(spec) for factory in only), *upstream_assets(*others)],
        resources={
            "store": artifact_store(folder),
            "compute": compute or HostedCompute(record=str(folder / "record")),
            "tracking": ExperimentTracking(uri=f"sqlite:///{runs}", artifacts=str(runs.parent / "artifacts")),
            **more,
        },
        raise_on_error=False,
    )


def tuned_is_right(request: Content) -> str:
    """The tuned model answers rightly, the base model only what a worked example shows."""
    prompt = request["messages"][-1]["content"]
    intent = next((intent for intent, texts in WORDS.items() if any(prompt.startswith(text) for text in texts)), "cash")
    if request["model"].startswith("ft:"):
        return answer(intent, "high" if "lost" in prompt else "low")
    return answer("card") if len(request["messages"]) > 2 else json.dumps({"intent": "I cannot say"})
