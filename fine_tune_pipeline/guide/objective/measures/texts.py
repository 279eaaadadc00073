"""Scores of a free text beside a reference: shared words, shared order, characters to change, length."""

import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fine_tune_pipeline.guide.objective.measures.item import Item

SIMILARITY = "similarity"
"""Measured by the program that embeds: the cosine of the answer's and the reference's sentence embeddings."""


def same_words(item: Item) -> float:
    """1 if both texts have the same words in the same order."""
    return float(words(item.prediction) == words(item.reference))


def token_f1(item: Item) -> float:
    """F1 of the words as bags."""
    return f1(Counter(words(item.prediction)), Counter(words(item.reference)))


def rouge_l(item: Item) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, with beta 1)."""
    one, other = words(item.prediction), words(item.reference)
    if not one or not other:
        return float(one == other)
    return 2 * _longest_common(one, other) / (len(one) + len(other))


def edit_rate(item: Item) -> float:
    """Levenshtein distance in characters over the longer length: 0 the same, 1 nothing in common."""
    longer = max(len(item.prediction), len(item.reference))
    return _edits(item.prediction, item.reference) / longer if longer else 0.0


def length_ratio(item: Item) -> float:
    """Words of the answer over words of the reference."""
    return len(item.prediction.split()) / max(1, len(item.reference.split()))


def similarity(item: Item) -> float:
    """The measured cosine; rounding may push it a hair outside of -1 to 1."""
    return min(1.0, max(-1.0, item.number(SIMILARITY)))


def words(text: str) -> list[str]:
    """Words for comparison: Unicode-normalised, without case, punctuation and extra white space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(
        " " if character in string.punctuation or unicodedata.category(character).startswith("P") else character for character in folded
    ).split()


def f1(one: Counter[Any], other: Counter[Any]) -> float:
    """2·|overlap| / (|one| + |other|); two empty bags agree."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    row = [0] * (len(other) + 1)
    for left in one:
        diagonal = 0
        for place, right in enumerate(other, start=1):
            diagonal, row[place] = row[place], diagonal + 1 if left == right else max(row[place], row[place - 1])
    return row[-1]


def _edits(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for line, left in enumerate(one, start=1):
        diagonal, row[0] = row[0], line
        for place, right in enumerate(other, start=1):
            diagonal, row[place] = row[place], min(diagonal + (left != right), row[place] + 1, row[place - 1] + 1)
    return row[-1]
