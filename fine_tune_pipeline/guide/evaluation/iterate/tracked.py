"""An evaluation in MLflow: a run below that of the training which it judged, so that experiments stand side by side there too."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.evaluation.iterate.compared import answer_of
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.tracking import ExperimentTracking

FINGERPRINT = "evaluation_fingerprint"

LONGEST = 5000
"""Characters of a tag that MLflow takes everywhere."""


def track_evaluation(
    tracking: "ExperimentTracking", use_case: str, evaluation: Artifact, *, training_run: str, changed: Sequence[str]
) -> str:
    """Log the figures of an evaluation that was just made; in words, what came of it. No model waits for MLflow to be up.

    Args:
        training_run: id of the run that the new one is put below.
        changed: what differs from the evaluation before.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    report = evaluation.json("report.json")
    made_at = int(evaluation.manifest.made_at.timestamp() * 1000)
    tags = {**tags_of(report), FINGERPRINT: evaluation.fingerprint, "changed": "; ".join(changed), "mlflow.parentRunId": training_run}
    try:
        client = MlflowClient(tracking_uri=tracking.uri)
        experiment = client.get_experiment_by_name(tracking.experiment(use_case))
        assert experiment is not None
        run = client.create_run(experiment.experiment_id, run_name=f"evaluation {evaluation.fingerprint[:8]}")
        client.log_batch(
            run.info.run_id,
            metrics=[Metric(name, value, made_at, 0) for name, value in figures(report).items()],
            tags=[RunTag(name, value[:LONGEST]) for name, value in tags.items()],
        )
        client.set_terminated(run.info.run_id)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        return f"not logged to MLflow ({type(error).__name__}: {str(error).splitlines()[0][:300]}); the report is whole without"
    return f"run {run.info.run_id} below {training_run}"


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of the fine-tuned model with both ends of their intervals, the metric of all systems, and every gain in it."""
    metric, found = report["primary_metric"], {"rows": report["n"], "training_minutes": report["training"]["seconds"] / 60}
    for name, value in report["systems"][FINE_TUNED].items():
        found |= {f"{FINE_TUNED}/{name}{end}": value[key] for key, end in (("estimate", ""), ("low", "/low"), ("high", "/high"))}
    found |= {f"{metric}/{system}": value[metric]["estimate"] for system, value in report["systems"].items() if system != FINE_TUNED}
    for gain in report["gains"]:
        if gain["metric"] == metric:
            found |= {f"gain/{gain['over']}{end}": gain[key] for key, end in (("estimate", ""), ("low", "/low"), ("high", "/high"))}
    # MLflow takes these characters in names, and no missing numbers.
    return {re.sub(r"[^\w\-. :/]", "_", name): float(value) for name, value in found.items() if value is not None}


def tags_of(report: Mapping[str, Any]) -> dict[str, str]:
    """What is no number: the answer to the objective, the decision, and what to try next."""
    return {
        "objective": answer_of(report),
        "recommendation": report["recommendation"]["choice"],
        "primary_metric": report["primary_metric"],
        "next_steps": ", ".join(step["id"] for step in report.get("next_steps", [])),
    }
