"""Does the model know when it is wrong? Its probabilities beside the share that is right, in bins of equally many rows."""

from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.guide.evaluation.analysis.given import LEVEL, Given, NotAvailable, share
from fine_tune_pipeline.guide.evaluation.corpus import corpus_bounds, drawn
from fine_tune_pipeline.guide.evaluation.figure import figure_of
from fine_tune_pipeline.guide.evaluation.statistics import mean_bounds, two_sided
from fine_tune_pipeline.guide.objective.measures.item import Corpus, Item
from fine_tune_pipeline.guide.objective.measures.labels import CONFIDENCE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BINS = 10
DRAWS = 2_000

FEWEST_ROWS = 2 * BINS
"""Below this a bin would hold one row."""


def calibration(given: Given) -> dict[str, Any]:
    """Bins, expected calibration error and over-confidence of every system that gives probabilities.

    Raises:
        NotAvailable: no answer is plainly right or wrong, no system gives probabilities, or the rows are too few.
    """
    if not given.kind.binary:
        raise NotAvailable(f"an answer scored by {given.metric} is not plainly right or wrong, so no probability can be held against it")
    if len(given.test) < FEWEST_ROWS:
        raise NotAvailable(f"{len(given.test)} test rows, want at least {FEWEST_ROWS} for {BINS} bins")
    systems = {}
    for system, measured in given.measured.items():
        sure = [numbers.get(CONFIDENCE) for numbers in measured]
        if system in given.scores.by_system and sure and all(number is not None for number in sure):
            right = [float(score == given.best) for score in given.scores.of(system, given.metric)]
            systems[system] = _of_system(given, [min(1.0, number or 0.0) for number in sure], right)
    if not systems:
        raise NotAvailable("no system says how probable its answers are; hosted models and plain classifiers do not")
    return {"metric": given.metric, "draws": DRAWS, "level": LEVEL, "systems": systems}


def bins_of(sure: "NDArray[np.float64]", *, bins: int = BINS) -> "NDArray[np.int64]":
    """The bin of each row, cut at the quantiles of the probabilities; equal probabilities are never parted, so a bin may be empty.

    The same cuts as scikit-learn's `calibration_curve(strategy="quantile")`.
    """
    import numpy as np

    edges = np.quantile(sure, np.linspace(0, 1, bins + 1))
    return np.searchsorted(edges[1:-1], sure)


def calibration_error(rows: "NDArray[np.float64]") -> float:
    """Expected calibration error over bins of equally many rows: mean distance of probability from share right, weighted by rows.

    Args:
        rows: [rows, 2], probability of the answer and whether it is right.
    """
    import numpy as np

    distance = np.bincount(bins_of(rows[:, 0]), weights=rows[:, 0] - rows[:, 1], minlength=BINS)
    return float(np.abs(distance).sum() / len(rows))


def _of_system(given: Given, sure: list[float], right: list[float]) -> dict[str, Any]:
    import numpy as np

    pairs, clusters, level = np.column_stack([sure, right]), given.scores.clusters, two_sided(LEVEL)
    draws = drawn(Corpus(row=_not_asked, value=calibration_error), pairs.tolist(), clusters=clusters, draws=DRAWS)
    groups = len(set(clusters))
    error = corpus_bounds(calibration_error(pairs), draws, level=level, rows=len(pairs), clusters=groups, low=0.0, high=1.0)
    excess = mean_bounds((pairs[:, 0] - pairs[:, 1]).tolist(), level=level, clusters=clusters, low=-1.0, high=1.0)
    return {"ece": figure_of(error), "overconfidence": figure_of(excess), "bins": _bins(pairs)}


def _bins(pairs: "NDArray[np.float64]") -> list[dict[str, Any]]:
    place = bins_of(pairs[:, 0])
    found = [pairs[place == number] for number in range(BINS)]
    return [
        {
            "from": float(rows[:, 0].min()),
            "to": float(rows[:, 0].max()),
            "probability": float(rows[:, 0].mean()),
            "right": share(int(rows[:, 1].sum()), len(rows)),
        }
        for rows in found
        if len(rows)
    ]


def _not_asked(_: Item) -> tuple[float, ...]:
    """The rows are here already."""
    raise AssertionError
