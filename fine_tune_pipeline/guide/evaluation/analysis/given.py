"""What every part of the analysis looks at, and how it says that it has nothing to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.figure import Figure, figure_of
from fine_tune_pipeline.guide.evaluation.measured import Measured
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.scoring import Scores, headline_metric
from fine_tune_pipeline.guide.evaluation.statistics import two_sided, wilson
from fine_tune_pipeline.guide.evaluation.vectors import Vectors
from fine_tune_pipeline.guide.evaluation.verdicts import Verdict
from fine_tune_pipeline.guide.objective.metrics import Metric
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.objective import ObjectiveSpec

LEVEL = 0.95
"""Of two-sided intervals, and of a family of tests together."""


class NotAvailable(Exception):
    """A part of the analysis has nothing to work on; the message says what is missing."""


@dataclass(frozen=True)
class Given:
    """A finished evaluation.

    `metric` has one score for each row; `base` is the form of the base model that is compared; `columns` are those of metadata that the
    user named; `detectable_gain` is the smallest gain that these test rows can show; `worn` says that they were looked at too often.
    """

    objective: ObjectiveSpec
    task: Task
    train: Sequence[Example]
    test: Sequence[Example]
    answers: Mapping[str, Sequence[str]]
    scores: Scores
    measured: Measured
    verdicts: Sequence[Verdict]
    metric: str
    base: str
    columns: frozenset[str]
    vectors: Vectors | None
    detectable_gain: float
    worn: bool = False

    @property
    def kind(self) -> Metric:
        """The metric by row."""
        return self.scores.metrics[self.metric]

    @property
    def best(self) -> float:
        """The score of a faultless row."""
        return self.kind.low if self.kind.better == "lower" else self.kind.high

    @property
    def own(self) -> Sequence[str]:
        """The answers of the fine-tuned model."""
        return self.answers[FINE_TUNED]

    def example(self, place: int) -> dict[str, str]:
        """A test row and what the fine-tuned model answered."""
        row = self.test[place]
        return {"id": row.id, "prompt": row.prompt, "wanted": row.completion, "fine_tuned": self.own[place]}


def row_metric(scores: Scores, metric: str, task: Task) -> str:
    """The metric itself if every row has a score of its own in it, else the one nearest to it that does.

    Raises:
        NotAvailable: no metric of the report has such scores.
    """
    for name in dict.fromkeys([metric, headline_metric(task), *scores.metrics]):
        kind = scores.metrics.get(name)
        if kind is not None and kind.corpus is None and kind.counts is None and not kind.validity and kind.better != "neither":
            return name
    raise NotAvailable("no metric of the report scores every row by itself; let a criterion name one that does")


def share(successes: int, rows: int) -> Figure:
    """A share of at least one row, with Wilson's two-sided interval."""
    return figure_of(wilson(successes, rows, two_sided(LEVEL)))
