"""Labels that look wrong: a classifier trained on the other rows finds another one likelier. A reason to look, never to drop."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.chance import by_hash
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import CLUSTER
from fine_tune_pipeline.guide.objective.task import ClassificationTask, Task, as_text, parsed

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Unit vectors of texts, rows x width, in order."""

MARKED_PER_ERROR = 1.5
"""So many rows are marked for each error that cleanlab expects, the least likely labels first.

Wrong labels found / rows marked, means over four ways to fold, words and meaning together: 18 of 20 planted ones / 82 rows at 1, 19 / 122
at 1.5, 20 / 164 at 2 (1,823 bank messages, two fields). With 3 % of banking77's labels changed: 282 of 300 / 346 at 1, 295 / 519 at 1.5.
Words alone: 19 of 20 / 187 at 1.5.
"""

MEANING_WEIGHT = 0.5
"""Length of the embedding beside that of the words (1). Of 20 planted errors MiniLM alone finds 16, and needs twice the marks."""

LEAST_AGREEMENT = 0.7
"""Share of the labels that the classifier must give itself before it may doubt the others. Where words and meaning do not show a label, it
doubts by its own mistakes: it gave 0.53 and 0.59 of the outlooks and tones of 64 excerpts of earnings calls, and doubted half of the
excerpts, all of which are right. Of the intents of 200 bank messages it gave 0.84, and doubted 3 %."""

FEWEST_ROWS = 50
"""Below this the classifier knows nothing."""

MOST_ROWS = 20_000
"""So many rows are judged, chosen by hash. 10,003 of 77 classes took 21 CPU seconds, and 67 more for the embeddings."""

_FOLDS = 5
_INVERSE_REGULARISATION = 10.0
_TOLERANCE = 1e-3


LEARNED_FROM = -1
"""Fold of rows that the classifier always learns from and never judges."""


@dataclass(frozen=True)
class Disagreement:
    """The value at `place` is doubted: like rows say `better`. `quality` is the probability of the value as it is given, 0 to 1."""

    place: int
    better: str
    quality: float


@dataclass(frozen=True)
class Judged:
    """The share of the labels that like rows have too, and the doubted ones, the least likely first; None where that share is too small
    to doubt by, or where there is only one label."""

    agreement: float
    doubts: tuple[Disagreement, ...] | None


@dataclass(frozen=True)
class Doubts:
    """Example id -> which value the other rows would give it; how many rows were judged, and by what; field -> agreement with it, where
    that is too small to doubt by."""

    said: dict[str, str]
    judged: int
    by: str
    unseen: dict[str, float] = field(default_factory=dict)


def suspects(examples: Sequence[Example], *, task: Task, embed: Embed | None = None) -> Doubts:
    """Doubts about the values of fields with a closed list, by cleanlab on probabilities that each row's own cluster had no part in.

    Args:
        embed: gives the meaning of prompts; without it their words alone decide.
    """
    by = "words" if embed is None else "words and meaning (MiniLM)"
    rows = _judged(examples)
    fields = field_values(rows, task)
    if len(rows) < FEWEST_ROWS or not any(len(set(values)) > 1 for values in fields.values()):
        return Doubts({}, 0, by)
    prompts = [example.prompt for example in rows]
    vectors = None if embed is None else embed(prompts)
    folds = folds_of(rows)
    found: dict[str, list[str]] = {}
    unseen: dict[str, float] = {}
    for name, values in fields.items():
        judged = disagreements(prompts, values, vectors=vectors, folds=folds)
        if judged.doubts is None and len(set(values)) > 1:
            unseen[name] = judged.agreement
        for doubt in judged.doubts or ():
            said = f"label_disagrees: {name} is {values[doubt.place]}, like rows say {doubt.better}"
            found.setdefault(rows[doubt.place].id, []).append(said)
    return Doubts({id_: "; ".join(said) for id_, said in found.items()}, len(rows), by, unseen)


def agreements(unseen: Mapping[str, float]) -> str:
    """Such as "outlook 0.36, tone 0.50"."""
    return ", ".join(f"{name} {agreement:.2f}" for name, agreement in unseen.items())


def _judged(examples: Sequence[Example]) -> Sequence[Example]:
    """All rows, or those with the smallest hashes: the same ones when rows are added elsewhere."""
    if len(examples) <= MOST_ROWS:
        return list(examples)
    ranked = heapq.nsmallest(MOST_ROWS, ((by_hash(example.id), place) for place, example in enumerate(examples)))
    return [examples[place] for place in sorted(place for _, place in ranked)]


def folds_of(examples: Sequence[Example]) -> NDArray[np.int64]:
    """The fold of each row, by hash; rows of one cluster are in the same."""
    return np.array([by_hash(example.metadata.get(CLUSTER, example.id))[0] % _FOLDS for example in examples], dtype=np.int64)


def field_values(examples: Sequence[Example], task: Task) -> dict[str, list[str]]:
    """Field -> value per example, "" where it is left out."""
    if isinstance(task, ClassificationTask):
        return {"label": [task.class_of(example.completion) for example in examples]}
    answers = [parsed(example.completion) for example in examples] if task.enum_fields else []
    return {field: [_value(answer, field) for answer in answers] for field in task.enum_fields}


def _value(answer: Any, field: str) -> str:
    return as_text(answer[field]) if isinstance(answer, dict) and field in answer else ""


def disagreements(
    prompts: Sequence[str], labels: Sequence[str], *, vectors: NDArray[np.float32] | None, folds: NDArray[np.int64]
) -> Judged:
    """Places whose label is among the least likely ones and another one is likelier.

    Args:
        vectors: unit vectors of the prompts, or None: then their words alone decide.
        folds: see `folds_of`; rows of the fold `LEARNED_FROM` are not judged.
    """
    from cleanlab.count import num_label_issues
    from cleanlab.rank import get_label_quality_scores

    names, judged = sorted(set(labels)), np.flatnonzero(folds != LEARNED_FROM)
    given = np.array([names.index(label) for label in labels])
    # cleanlab refuses labels that are all the same.
    if len(np.unique(given[judged])) < 2:
        return Judged(1.0, None)
    likely = _out_of_fold(prompts, given, vectors=vectors, folds=folds, classes=len(names))[judged]
    own = given[judged]
    best = likely.argmax(axis=1)
    agreement = float((best == own).mean())
    if agreement < LEAST_AGREEMENT:
        return Judged(agreement, None)
    quality = get_label_quality_scores(own, likely)
    first = np.argsort(quality, kind="stable")[: round(MARKED_PER_ERROR * num_label_issues(own, likely))]
    doubts = (Disagreement(int(judged[row]), names[best[row]], float(quality[row])) for row in first if best[row] != own[row])
    return Judged(agreement, tuple(doubts))


def _out_of_fold(
    prompts: Sequence[str], given: NDArray[np.int64], *, vectors: NDArray[np.float32] | None, folds: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """Probability of each class (rows x classes), by logistic regression that was trained without the row's fold."""
    from sklearn.linear_model import LogisticRegression

    likely = np.zeros((len(given), classes))
    for part in range(_FOLDS):
        train, test = np.flatnonzero(folds != part), np.flatnonzero(folds == part)
        if not len(test) or not len(train):
            continue
        known = np.unique(given[train])
        if len(known) == 1:
            likely[test, known[0]] = 1.0
            continue
        features, judged = _features(prompts, vectors, train=train, test=test)
        model = LogisticRegression(C=_INVERSE_REGULARISATION, tol=_TOLERANCE).fit(features, given[train])
        likely[np.ix_(test, known)] = model.predict_proba(judged)
    return likely


def _features(prompts: Sequence[str], vectors: NDArray[np.float32] | None, *, train: NDArray[np.intp], test: NDArray[np.intp]) -> Any:
    """TF-IDF of the words, whose weights the test rows have no part in, and beside it the embedding."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    parts = [words.fit_transform([prompts[row] for row in train.tolist()]), words.transform([prompts[row] for row in test.tolist()])]
    if vectors is None:
        return parts
    return [hstack([part, csr_matrix(MEANING_WEIGHT * vectors[rows])]).tocsr() for part, rows in zip(parts, (train, test), strict=True)]
