"""Where served answers may differ a little from the evaluated ones, their score must not: single bits of bfloat16 are no worse model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.statistics import mean_bounds, two_sided, wilson
from fine_tune_pipeline.guide.objective.metrics import allowed_metrics, metric_named, score_one
from fine_tune_pipeline.guide.objective.task import Task

LEVEL = 0.95


@dataclass(frozen=True)
class KeptScore:
    """The mean score of the served answers beside that of the evaluated ones, with its interval on the same rows."""

    metric: str
    served: float
    evaluated: Bounds

    @property
    def same(self) -> bool:
        return self.evaluated.lower <= self.served <= self.evaluated.upper

    @property
    def said(self) -> str:
        bounds = self.evaluated
        where = "within" if self.same else "outside"
        return (
            f"{self.metric} of the served answers is {self.served:.3f}, {where} {bounds.lower:.3f} to {bounds.upper:.3f}, the {LEVEL:.0%} "
            f"interval of the evaluated ones on the same {bounds.rows} prompts"
        )


def kept_score(pairs: Sequence[tuple[Example, str, str]], *, task: Task) -> KeptScore | None:
    """Score served and evaluated answers alike; None for a task without a metric of answer and reference alone.

    Args:
        pairs: (test row, evaluated answer, served answer), at least one.
    """
    names = [name for name in allowed_metrics(task) if metric_named(name, task).plain]
    if not names:
        return None
    name = "exact_match" if "exact_match" in names else names[0]
    metric = metric_named(name, task)

    def score(row: Example, answer: str) -> float:
        return score_one(answer, row.completion, task=task, metrics=[name], example=row)[name]

    served = [score(row, answer) for row, _, answer in pairs]
    bounds = mean_bounds(
        [score(row, answer) for row, answer, _ in pairs],
        level=two_sided(LEVEL),
        low=metric.low,
        high=metric.high,
        binary=metric.binary,
        share=wilson,
    )
    return KeptScore(metric=name, served=sum(served) / len(served), evaluated=bounds)


def paired(
    rows: Sequence[Example], evaluated: Mapping[str, str], differences: Sequence[Mapping[str, str]]
) -> list[tuple[Example, str, str]]:
    """(test row, evaluated answer, served answer) of the prompts that were compared.

    Args:
        rows: of the test set.
        evaluated: id -> evaluated answer, of those that were compared.
        differences: of `Parity`; the other answers are equal.
    """
    other = {found["id"]: found["served"] for found in differences}
    return [(row, evaluated[row.id], other.get(row.id, evaluated[row.id])) for row in rows if row.id in evaluated]
