"""What a metric comes to over many answers: the mean of their scores, or one number of all rows together."""

from collections.abc import Sequence
from math import fsum

from fine_tune_pipeline.guide.objective.measures.item import Item
from fine_tune_pipeline.guide.objective.metrics import Metric


def figure(metric: Metric, items: Sequence[Item]) -> float | None:
    """The metric over these answers; None if no row counts for it, as for the recall of a label that no row has."""
    counted = [item for item in items if metric.counted(item.answered)]
    if not counted:
        return None
    if metric.corpus is None:
        return fsum(metric.score(item) for item in counted) / len(counted)
    return corpus_figure(metric, [metric.corpus.row(item) for item in counted])


def corpus_figure(metric: Metric, rows: Sequence[Sequence[float]]) -> float:
    """A metric of all rows together, from the numbers of its rows."""
    import numpy as np

    assert metric.corpus is not None
    return metric.corpus.value(np.asarray(rows, dtype=np.float64))
