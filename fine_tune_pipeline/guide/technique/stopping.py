"""What early stopping on a metric of the task needs: the metric must be one, and the program must be able to score answers with it."""

from collections.abc import Sequence

from fine_tune_pipeline.guide.objective.metrics import UnknownMetric, allowed_metrics, metric_named
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.systems import max_new_tokens
from fine_tune_pipeline.programs.requests import AnswerScoring
from fine_tune_pipeline.spec.training import VALIDATION_LOSS, EarlyStopping

SCORER = "fine_tune_pipeline.guide.objective.metrics:scorer"


def stops_on_answers(wanted: EarlyStopping | None) -> bool:
    """Whether answers are generated while training."""
    return wanted is not None and wanted.metric != VALIDATION_LOSS


def check_stopping(wanted: EarlyStopping | None, task: Task) -> None:
    """Look at the metric before anything is trained.

    Raises:
        UnknownMetric: it is not one of the task, none that gets better in one direction, or one that answers alone do not decide.
    """
    if wanted is None or not stops_on_answers(wanted):
        return
    where = "training.early_stopping.metric"
    try:
        metric = metric_named(wanted.metric, task)
    except UnknownMetric as error:
        raise UnknownMetric(f"{where}: {error}; or {VALIDATION_LOSS}") from error
    if not metric.plain:
        other = next(name for name in allowed_metrics(task) if metric_named(name, task).plain)
        raise UnknownMetric(
            f"{where}: got {metric.name}, which needs more than single answers and their references ({metric.about}); "
            f"take {other} or {VALIDATION_LOSS}"
        )
    if metric.better == "neither":
        raise UnknownMetric(
            f"{where}: got {metric.name}, of which neither more nor less is better ({metric.about}); take {VALIDATION_LOSS}"
        )


def answer_scoring(wanted: EarlyStopping | None, task: Task, train_completions: Sequence[str]) -> AnswerScoring | None:
    """How the program scores answers; None when it looks at the validation loss, or does not stop early."""
    if wanted is None or not stops_on_answers(wanted):
        return None
    return AnswerScoring(
        function=SCORER,
        settings={"task": task.described(), "metric": wanted.metric},
        max_new_tokens=max_new_tokens(train_completions),
        higher_is_better=metric_named(wanted.metric, task).better == "higher",
    )
