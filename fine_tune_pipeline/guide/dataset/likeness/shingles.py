"""Shingles of plain texts as 64-bit hashes, many texts at a time. Letters: D documents, S shingles, L of the longest document."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
"""Characters of a shingle."""

_NONE = np.uint64(2**64 - 1)
_CELLS = 2**19
"""So many hashes are compared at a time: they fit into the processor's cache."""


class Shingles(NamedTuple):
    """Hashes of all documents' shingles one after the other, repetitions too (S); where each document begins, and how many it has (D)."""

    hashes: NDArray[np.uint64]
    begins: NDArray[np.intp]
    counts: NDArray[np.intp]


def hashed(plain: Sequence[str]) -> Shingles:
    """The 5-character pieces of plain texts; a shorter text is one. Of two texts' pieces two share a hash by chance once in 10^15."""
    padded = [text.ljust(SHINGLE, "\0") for text in plain]
    lengths = np.array([len(text) for text in padded], dtype=np.intp)
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = max(0, len(codes) - SHINGLE + 1)
    windows = np.zeros(count, dtype=np.uint64)
    for place in range(SHINGLE):
        windows = windows * np.uint64(0x9E3779B97F4A7C15) + codes[place : count + place] + np.uint64(1)
    ends = np.cumsum(lengths)
    inside = np.ones(len(codes), dtype=bool)
    for place in range(1, SHINGLE):
        # A window that begins in one text and ends in the next belongs to neither.
        inside[ends - place] = False
    counts = lengths - SHINGLE + 1
    return Shingles(windows[inside[:count]], np.cumsum(counts) - counts, counts)


def similarities(plain: Sequence[str], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each pair of places: shared shingles over all shingles of the two texts, 0 to 1."""
    lengths = np.array([len(text) for text in plain], dtype=np.int64)
    longest = np.maximum(lengths[pairs].max(axis=1, initial=0), SHINGLE)
    order = np.argsort(-longest, kind="stable")
    result = np.empty(len(pairs), dtype=np.float64)
    start = 0
    while start < len(order):
        part = order[start : start + max(1, _CELLS // (2 * int(longest[order[start]])))]
        places, ends = np.unique(pairs[part], return_inverse=True)
        result[part] = _jaccard(_distinct(hashed([plain[place] for place in places])), ends.reshape(-1, 2))
        start += len(part)
    return result


def _distinct(shingles: Shingles) -> NDArray[np.uint64]:
    """Each document's shingles, each once, filled up: D x L."""
    column = np.arange(shingles.counts.max())
    place = np.minimum(shingles.begins[:, None] + column, len(shingles.hashes) - 1)
    cells = np.where(column < shingles.counts[:, None], shingles.hashes[place], _NONE)
    cells.sort(axis=1)
    cells[:, 1:][cells[:, 1:] == cells[:, :-1]] = _NONE
    return cells


def _jaccard(cells: NDArray[np.uint64], ends: NDArray[np.intp]) -> NDArray[np.float64]:
    sizes = (cells != _NONE).sum(axis=1)
    both = np.concatenate([cells[ends[:, 0]], cells[ends[:, 1]]], axis=1)
    both.sort(axis=1)
    shared = ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] != _NONE)).sum(axis=1)
    return shared / (sizes[ends].sum(axis=1) - shared)
