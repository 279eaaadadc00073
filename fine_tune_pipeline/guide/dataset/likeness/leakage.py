"""Looks for test and validation prompts that training has seen, without trusting the steps that should have kept them apart.

By other means than they use, and exact: an index of rare shingles (prefix filter) instead of MinHash, runs of words, no hashes.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from fine_tune_pipeline.guide.dataset.likeness.duplicates import LEAK_JACCARD, Pair, jaccard, plain_text, shingles
from fine_tune_pipeline.guide.dataset.likeness.own_words import Overlap, most_rows, run_strings

_KEPT_SETS = 8192
"""So many texts' shingles are kept at hand, about 40 MB."""


class SharedWords(NamedTuple):
    """A place in the training rows, one in the others, and words in a row that stand in both."""

    first: int
    second: int
    words: str


def leaks(train: Sequence[str], other: Sequence[str], *, threshold: float = LEAK_JACCARD) -> list[Pair]:
    """Pairs (place in `train`, place in `other`) of texts that are at least so similar, most similar first; every one of them.

    Of two sets of n and m shingles with that similarity, the rarest n - ceil(threshold * n) + 1 of one and the rarest of the other, counted
    alike, have a shingle in common (prefix filter): only texts that share a rare one are compared, and only while enough shingles are left
    after it (positional filter; Xiao et al., Efficient Similarity Joins for Near Duplicate Detection, 2008).
    """
    texts = [plain_text(text) for text in other]
    rows = Counter(shingle for text in texts for shingle in shingles(text))
    index: dict[str, list[tuple[int, int]]] = defaultdict(list)
    sizes = []
    for place, text in enumerate(texts):
        theirs = shingles(text)
        sizes.append(len(theirs))
        for position, shingle in enumerate(_rarest(theirs, rows, threshold)):
            index[shingle].append((place, position))
    pieces = lru_cache(_KEPT_SETS)(lambda place: shingles(texts[place]))
    found = []
    for first, text in enumerate(train):
        mine = shingles(plain_text(text))
        likely = _likely([index.get(shingle, []) for shingle in _rarest(mine, rows, threshold)], len(mine), sizes, threshold)
        found += [Pair(first, second, jaccard(mine, pieces(second))) for second in likely]
    return sorted((pair for pair in found if pair.jaccard >= threshold), key=lambda pair: -pair.jaccard)


def _likely(hits: Sequence[Sequence[tuple[int, int]]], size: int, sizes: Sequence[int], threshold: float) -> list[int]:
    """Places of texts that share enough of the rare shingles; `hits` are, for each of them, the texts that have it too and where."""
    shared: dict[int, int] = {}
    for position, places in enumerate(hits):
        for place, other in places:
            before = shared.get(place, 0)
            possible = before + min(size - position, sizes[place] - other)
            enough = possible * (1 + threshold) >= threshold * (size + sizes[place]) - 1e-9
            shared[place] = before + 1 if enough else -size - position
    return [place for place, count in shared.items() if count > 0]


def shared(
    train: Sequence[Sequence[str]], other: Sequence[Sequence[str]], *, counted: Sequence[Sequence[str]], overlap: Overlap
) -> list[SharedWords]:
    """Of each training row that holds a run of the own words of a row of `other`: the first such run, and that row.

    Args:
        train: of each row its texts.
        other: likewise.
        counted: all rows that the split saw: a run that stands in many of them is boilerplate, and so is what overlaps it.
    """
    rows = Counter({run: 0 for row in other for _, run in run_strings(row, overlap)})
    for row in counted:
        rows.update({run for _, run in run_strings(row, overlap) if run in rows})
    common = {run for run, count in rows.items() if count > most_rows(len(counted))}
    owner: dict[str, int] = {}
    for place, row in enumerate(other):
        runs = list(run_strings(row, overlap))
        words = len(runs[0][1].split()) if runs else 0
        covered = {word for begin, run in runs if run in common for word in range(begin, begin + words)}
        for begin, run in runs:
            if covered.isdisjoint(range(begin, begin + words)):
                owner.setdefault(run, place)
    found: dict[int, SharedWords] = {}
    for place, row in enumerate(train):
        for _, run in run_strings(row, overlap):
            if run in owner:
                found.setdefault(place, SharedWords(place, owner[run], run))
    return list(found.values())


def _rarest(pieces: set[str], rows: Counter[str], threshold: float) -> list[str]:
    count = len(pieces) - math.ceil(threshold * len(pieces) - 1e-9) + 1
    return heapq.nsmallest(count, pieces, key=lambda piece: (rows[piece], piece))
