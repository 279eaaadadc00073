"""MLflow, and people who answer in its review queues."""

from typing import Any

import mlflow
from mlflow.entities import AssessmentSource
from mlflow.genai.review_queues import list_review_queue_items, list_review_queues, set_review_queue_item_status

from fine_tune_pipeline.people.review_queue import CONTENT
from fine_tune_pipeline.resources.tracking import ExperimentTracking

Item = tuple[str, str]
"""Queue id and trace id."""


class People:
    """They answer as MLflow's web page does: assessments, then the status. The caller has set MLflow's address."""

    def __init__(self, tracking: ExperimentTracking, name: str) -> None:
        self.uri, self.name = tracking.uri, tracking.experiment(name)
        self.experiment = mlflow.get_experiment_by_name(self.name).experiment_id

    def items(self) -> dict[str, dict[str, Item]]:
        """Queue name -> content -> item."""
        found = {}
        for queue in list_review_queues(experiment_id=self.experiment):
            traces = [mlflow.get_trace(item.item_id) for item in list_review_queue_items(queue.queue_id, max_results=100)]
            found[queue.name] = {trace.info.tags[CONTENT]: (queue.queue_id, trace.info.trace_id) for trace in traces}
        return found

    def answer(
        self, item: Item, by: str, *, done: bool = True, corrected: str | None = None, note: str | None = None, **given: Any
    ) -> None:
        queue_id, trace_id = item
        source = AssessmentSource("HUMAN", by)
        for name, value in given.items():
            mlflow.log_feedback(trace_id=trace_id, name=name, value=value, source=source, rationale=note)
        if corrected is not None:
            mlflow.log_expectation(trace_id=trace_id, name="corrected", value=corrected, source=source)
        if done:
            set_review_queue_item_status(queue_id, item_id=trace_id, status="complete", completed_by=by)
