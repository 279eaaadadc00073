"""chrF: shared character n-grams of answer and reference (Popović 2015), which needs no words and so suits every language."""

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from fine_tune_pipeline.guide.objective.measures.item import Corpus, Item

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORDER = 6
BETA = 2
"""Recall counts so many times as much as precision; both numbers are the paper's."""


def chrf() -> Corpus:
    """chrF of all answers together, 0 to 1: n-grams are counted over all rows, so long answers weigh more.

    Equals sacrebleu's `CHRF` without its factor of 100.
    """
    return Corpus(row=_counts, value=lambda rows: _score(rows.sum(axis=0)))


def chrf_of_one(item: Item) -> float:
    """chrF of one answer; two empty texts agree."""
    import numpy as np

    if not _letters(item.prediction) and not _letters(item.reference):
        return 1.0
    return _score(np.asarray(_counts(item)))


def nearer_to_preferred(item: Item) -> float:
    """1 if the answer is nearer to the preferred answer than to the rejected one, by chrF; half if it is as near to both."""
    rejected = item.row.rejected
    assert rejected is not None
    lead = chrf_of_one(item) - chrf_of_one(replace(item, reference=rejected))
    return 0.5 if lead == 0 else float(lead > 0)


def _letters(text: str) -> str:
    return "".join(text.split())


def _counts(item: Item) -> tuple[float, ...]:
    """For n from 1: n-grams of the answer, of the reference, and shared ones."""
    one, other = _letters(item.prediction), _letters(item.reference)
    counts: list[float] = []
    for n in range(1, ORDER + 1):
        given, wanted = _ngrams(one, n), _ngrams(other, n)
        # As sacrebleu: a reference that is too short for an n-gram says nothing about those of the answer.
        counts += [given.total() if wanted else 0, wanted.total(), (given & wanted).total()]
    return tuple(counts)


def _ngrams(letters: str, n: int) -> Counter[str]:
    return Counter(letters[start : start + n] for start in range(len(letters) - n + 1))


def _score(counts: "NDArray[np.float64]") -> float:
    """F of the mean precision and mean recall over the lengths that both texts have."""
    given, wanted, shared = counts.reshape(ORDER, 3).T
    both = (given > 0) & (wanted > 0)
    if not both.any():
        return 0.0
    precision, recall = (shared[both] / given[both]).mean(), (shared[both] / wanted[both]).mean()
    weighed = BETA**2 * precision + recall
    return float((1 + BETA**2) * precision * recall / weighed) if weighed else 0.0
