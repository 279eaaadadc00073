"""Near duplicates: MinHash proposes pairs (`minhash.py`), the exact Jaccard similarity of their 5-character shingles decides."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from fine_tune_pipeline.guide.dataset.likeness.minhash import MISSED_SHARE, candidates
from fine_tune_pipeline.guide.dataset.likeness.shingles import SHINGLE, similarities

LEAK_JACCARD = 0.7
"""From here on a test row counts as seen in training, whatever the use case calls a duplicate."""

LEAK_MISSED = 1e-6
"""Of pairs at that similarity the split may miss so many: the check after it finds every one and would stop the run."""


class Pair(NamedTuple):
    """Two documents by their places, `first < second`, and their Jaccard similarity."""

    first: int
    second: int
    jaccard: float


@dataclass(frozen=True)
class Pairs:
    """Pairs in order of their places, as arrays: millions of them are no millions of objects."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    jaccard: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)

    def __iter__(self) -> Iterator[Pair]:
        for place in range(len(self)):
            yield Pair(int(self.first[place]), int(self.second[place]), float(self.jaccard[place]))

    def where(self, wanted: NDArray[np.bool_ | np.int64]) -> "Pairs":
        """Those for which `wanted` is true; or, of places, those at them, in that order."""
        return Pairs(self.first[wanted], self.second[wanted], self.jaccard[wanted])


_NO_MATTER = regex.compile(r"[^\p{L}\p{N}\p{M}\p{P}\p{Sc}\p{Sm}]+|(?<!\p{N}\s?)\p{P}+|\p{P}+(?!\s?\p{N})")
# What stands between two digits stays: 1.50 is not 150, and 5-3 is not 5+3.


def plain_text(text: str) -> str:
    """The text without what makes no difference to a reader: case, punctuation, the width of gaps. Signs only: the text as it is."""
    return " ".join(_NO_MATTER.sub(" ", text.casefold()).split()) or text.strip()


def shingles(plain: str) -> set[str]:
    """The 5-character pieces of a plain text; a shorter text is one."""
    return {plain[start : start + SHINGLE] for start in range(max(1, len(plain) - SHINGLE + 1))}


def jaccard(left: set[str], right: set[str]) -> float:
    """Shared shingles over all shingles of two texts, 0 to 1."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


def near_pairs(texts: Iterable[str], threshold: float, *, missed: float = MISSED_SHARE) -> Pairs:
    """Pairs whose similarity is at least `threshold`, in order of their places.

    None of them is wrong. Of those at the threshold the share `missed` may be missed, of those above less (`test_duplicates.py` counts
    against brute force). Of more than 64 documents that are all alike, not every pair is given, but each document with the first of them.
    Memory: the plain texts and 256 bytes for each.
    """
    return near_plain([plain_text(text) for text in texts], threshold, missed=missed)


def near_plain(plain: Sequence[str], threshold: float, *, missed: float = MISSED_SHARE) -> Pairs:
    """The same of texts that are plain already."""
    pairs = candidates(plain, threshold, missed=missed)
    alike = similarities(plain, pairs)
    return Pairs(pairs[:, 0], pairs[:, 1], alike).where(alike >= threshold)


def groups(count: int, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of `count` documents the place of the first one that it is connected with by links, directly or through others.

    Args:
        links: pairs of places, in two columns.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(links), dtype=bool), (links[:, 0], links[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    return first[label].astype(np.int64)
