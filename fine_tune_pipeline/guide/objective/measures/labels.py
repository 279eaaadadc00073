"""Scores of an answer that is one label: right or wrong, by class, and how sure the model was."""

from typing import TYPE_CHECKING

from fine_tune_pipeline.guide.objective.measures.item import Corpus, Item
from fine_tune_pipeline.guide.objective.task import normalised_label

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIDENCE = "confidence"
"""Measured by the program that answers: the probability that it gave to the whole answer."""

BINS = 15
"""Of the confidence, as in Guo et al. 2017 (arXiv 1706.04599)."""

NO_CLASS = -1.0
"""Stands for an answer that is none of the labels."""


def label_match(item: Item) -> float:
    """1 if the label is right, spelling differences aside."""
    return float(normalised_label(item.prediction) == normalised_label(item.reference))


def macro_f1() -> Corpus:
    """F1 of each class that the references hold, then their mean: rare classes count as much as frequent ones.

    Equals scikit-learn's `f1_score(average="macro", zero_division=0)` over the labels of the references.
    """
    return Corpus(row=_classes, value=_macro_f1)


def calibration_error() -> Corpus:
    """Expected calibration error: in equal bins of confidence, the distance of mean confidence from the share that is right."""
    return Corpus(row=lambda item: (_confidence(item), label_match(item)), value=_calibration_error)


def confidence_error(item: Item) -> float:
    """Distance of the confidence in one answer from what became of it."""
    return abs(_confidence(item) - label_match(item))


def _confidence(item: Item) -> float:
    """What gives no probability answers as if it were sure."""
    return min(1.0, max(0.0, item.measured.get(CONFIDENCE, 1.0)))


def _classes(item: Item) -> tuple[float, float]:
    places = {name: float(place) for place, name in enumerate(item.task.classes)}
    wanted, given = item.task.class_of(item.reference), item.task.class_of(item.prediction)
    return places.get(wanted, NO_CLASS), places.get(given, NO_CLASS)


def _macro_f1(rows: "NDArray[np.float64]") -> float:
    import numpy as np

    wanted, given = rows[:, 0].astype(int) + 1, rows[:, 1].astype(int) + 1
    size = int(max(wanted.max(), given.max())) + 1
    of_class, answered = np.bincount(wanted, minlength=size), np.bincount(given, minlength=size)
    right = np.bincount(wanted[wanted == given], minlength=size)
    # Place 0 is NO_CLASS, which is no class to be good at.
    there = np.flatnonzero(of_class[1:]) + 1
    return float(np.mean(2 * right[there] / (of_class[there] + answered[there]))) if len(there) else 0.0


def _calibration_error(rows: "NDArray[np.float64]") -> float:
    import numpy as np

    confidence, right = rows[:, 0], rows[:, 1]
    # A confidence on the border of two bins belongs to the lower one.
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    distance = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return float(np.abs(distance).sum() / len(rows))
