"""Would more data help? A cheap learner on nested parts of the training set, and a forecast of what twice the rows would bring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fine_tune_pipeline.guide.evaluation.analysis.given import LEVEL, Given, NotAvailable
from fine_tune_pipeline.guide.evaluation.analysis.power_law import PowerLaw, fitted
from fine_tune_pipeline.guide.evaluation.clustered import codes
from fine_tune_pipeline.guide.evaluation.figure import figure_of
from fine_tune_pipeline.guide.evaluation.statistics import mean_bounds, two_sided
from fine_tune_pipeline.guide.evaluation.vectors import Vectors
from fine_tune_pipeline.guide.objective.measures.item import Item
from fine_tune_pipeline.guide.technique.systems import CLASSIFIER, classifier_answers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Answer = Literal["yes", "no", "cannot tell"]

Learner = Callable[[Sequence[int]], Sequence[str]]
"""Places in the training vectors -> an answer to each test row."""

SHARES = (0.12, 0.25, 0.5, 1.0)
SEEDS = 3
"""Orders of the training rows, of which the parts are the first ones."""

FEWEST_TRAINING_ROWS = 8
"""In the smallest part; smaller ones are left out."""

FEWEST_SIZES = 3
DRAWS = 1_000

OPTIMISM = 0.014
"""By so much a forecast from such a curve was too high on banking77 (0.940 for a measured 0.926)."""


@dataclass(frozen=True)
class Learned:
    """Scores [sizes, seeds, test rows], better ones higher, after learning from so many rows."""

    sizes: Sequence[int]
    scores: "NDArray[np.float64]"


def learning_curve(given: Given) -> dict[str, Any]:
    """Points with intervals, the fitted curve with its band, the gain of doubling, and the answer in a sentence.

    Raises:
        NotAvailable: no vectors, no score that answer and row alone give, or too few training rows.
    """
    import numpy as np

    if given.vectors is None:
        raise NotAvailable("no sentence encoder is installed, so there is no cheap learner (pip install 'fine_tune_pipeline[demo]')")
    if set(given.kind.needs) - {"row"}:
        raise NotAvailable(f"{given.metric} needs what a program measures, so the answers of a cheap learner cannot be scored by it")
    learned = _learned(given, given.vectors)
    drawn = _drawn(learned, given.scores.clusters)
    sizes, ceiling = np.array(learned.sizes, dtype=float), _sign(given) * given.best
    middle = fitted(sizes, learned.scores.mean(axis=(1, 2))[None, :], ceiling=ceiling)
    band = fitted(sizes, drawn, ceiling=ceiling)
    doubling = _doubling(middle, band, rows=learned.sizes[-1], tests=len(given.test))
    answer, why = _answer(given, doubling, means=learned.scores.mean(axis=(1, 2)).tolist())
    learner = "the plain classifier" if given.task.classes else "the answer of the nearest training row"
    return {
        "of": learner,
        "metric": given.metric,
        "better": given.kind.better,
        "seeds": SEEDS,
        "level": LEVEL,
        "points": _points(given, learned),
        "curve": _curve(middle, band, learned.sizes, tests=len(given.test), sign=_sign(given)),
        "doubling": doubling,
        "detectable_gain": given.detectable_gain,
        "smallest_gain": given.objective.evidence.smallest_gain,
        "answer": answer,
        "why": why,
    }


def sizes_of(rows: int) -> list[int]:
    """How many rows each part has.

    Raises:
        NotAvailable: fewer than three parts are large enough to learn from.
    """
    sizes = sorted({size for part in SHARES if (size := round(part * rows)) >= FEWEST_TRAINING_ROWS})
    if len(sizes) < FEWEST_SIZES:
        raise NotAvailable(f"{rows} training rows are too few: want three parts of at least {FEWEST_TRAINING_ROWS} rows each")
    return sizes


def _learned(given: Given, vectors: Vectors) -> Learned:
    import numpy as np

    sizes = sizes_of(len(vectors.places))
    learner = _classifier(given, vectors) if given.task.classes else _nearest(given, vectors)
    generator = np.random.default_rng(0)
    orders = [generator.permutation(len(vectors.places)).tolist() for _ in range(SEEDS)]

    def scores(places: Sequence[int]) -> list[float]:
        items = zip(learner(places), given.test, strict=True)
        return [_sign(given) * given.kind.score(Item(text, row.completion, given.task, row)) for text, row in items]

    # In whatever order, all rows are all rows.
    whole = scores(sorted(orders[0]))
    parts = [[whole if size == sizes[-1] else scores(sorted(order[:size])) for order in orders] for size in sizes]
    return Learned(sizes, np.array(parts))


def _classifier(given: Given, vectors: Vectors) -> Learner:
    """Logistic regression on sentence embeddings: the same as the system of that name, whose answers are those of all rows."""

    def answers(places: Sequence[int]) -> Sequence[str]:
        if len(places) == len(given.train) and CLASSIFIER in given.answers:
            return given.answers[CLASSIFIER]
        rows = [given.train[vectors.places[place]] for place in places]
        found = classifier_answers(rows, given.test, task=given.task, train_vectors=vectors.train[list(places)], row_vectors=vectors.test)
        assert found is not None
        return found

    return answers


def _nearest(given: Given, vectors: Vectors) -> Learner:
    """For each test row the answer of the training row that is nearest in meaning."""
    alike = vectors.test @ vectors.train.T

    def answers(places: Sequence[int]) -> Sequence[str]:
        best = alike[:, list(places)].argmax(axis=1)
        return [given.train[vectors.places[places[place]]].completion for place in best.tolist()]

    return answers


def _drawn(learned: Learned, clusters: Sequence[str]) -> "NDArray[np.float64]":
    """Bootstrap of the curve's points, [draws, sizes]: whole clusters of test rows, the same at every size, and an order of each size."""
    import numpy as np

    groups, generator = codes(clusters), np.random.default_rng(1)
    count = int(groups.max()) + 1
    weights = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS)
    rows = np.bincount(groups, minlength=count)
    sizes, seeds, _ = learned.scores.shape
    sums = np.array([[np.bincount(groups, weights=part, minlength=count) for part in parts] for parts in learned.scores])
    means = np.einsum("dc,ksc->dks", weights, sums) / (weights @ rows)[:, None, None]
    chosen = generator.integers(0, seeds, size=(DRAWS, sizes))
    return means[np.arange(DRAWS)[:, None], np.arange(sizes)[None, :], chosen]


def _doubling(middle: PowerLaw, band: PowerLaw, *, rows: int, tests: int) -> dict[str, Any]:
    import numpy as np

    gains = band.at(2 * rows) - band.at(rows)
    low, high = np.quantile(gains, [1 - two_sided(LEVEL), two_sided(LEVEL)])
    estimate = float((middle.at(2 * rows) - middle.at(rows))[0])
    return {"rows": 2 * rows, "estimate": estimate, "low": min(float(low), estimate), "high": max(float(high), estimate), "n": tests}


def _answer(given: Given, doubling: dict[str, Any], *, means: list[float]) -> tuple[Answer, str]:
    """A curve that gained much at the last doubling is not said to have ended, whatever the forecast: it may not be of that form."""
    low, high, seen = doubling["low"], doubling["high"], given.detectable_gain
    matters, last = given.objective.evidence.smallest_gain, means[-1] - means[-2]
    forecast = f"twice the rows are forecast to gain {doubling['estimate']:.3f}, between {low:.3f} and {high:.3f}"
    if max(means) - min(means) < 1e-9:
        return "cannot tell", "the score is the same with every number of training rows, so there is no curve to follow"
    if low > seen:
        return "yes", f"{forecast}: more than the {seen:.3f} that these test rows can show"
    if high < matters and last < matters:
        return "no", f"{forecast}: less than the {matters:g} that matters to the objective (evidence.smallest_gain)"
    return (
        "cannot tell",
        f"{forecast}, and the last doubling gained {last:.3f}; yes needs more than {seen:.3f}, what these test rows can show, and no less "
        f"than {matters:g} in both",
    )


def _points(given: Given, learned: Learned) -> list[dict[str, Any]]:
    sign, kind = _sign(given), given.kind
    found = []
    for size, scores in zip(learned.sizes, learned.scores, strict=True):
        by_row = (sign * scores.mean(axis=0)).tolist()
        bounds = mean_bounds(by_row, level=two_sided(LEVEL), clusters=given.scores.clusters, low=kind.low, high=kind.high)
        found.append({"rows": size, **figure_of(bounds)})
    return found


def _curve(middle: PowerLaw, band: PowerLaw, sizes: Sequence[int], *, tests: int, sign: float) -> list[dict[str, Any]]:
    """The fitted curve and its band up to twice the rows."""
    import numpy as np

    found = []
    for rows in np.linspace(sizes[0], 2 * sizes[-1], 25):
        ends = sorted(sign * float(end) for end in np.quantile(band.at(rows), [1 - two_sided(LEVEL), two_sided(LEVEL)]))
        found.append({"rows": float(rows), "estimate": sign * float(middle.at(rows)[0]), "low": ends[0], "high": ends[1], "n": tests})
    return found


def _sign(given: Given) -> float:
    """By which a score is higher where it is better."""
    return -1.0 if given.kind.better == "lower" else 1.0
