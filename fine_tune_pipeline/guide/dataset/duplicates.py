"""Near duplicates: MinHash and locality-sensitive hashing propose pairs, the exact Jaccard similarity of 5-character shingles decides.

Arrays: D documents, S shingles of one document (sorted, each once), P = 128 permutations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray
from tqdm import tqdm

SHINGLE = 5
"""Characters of a shingle."""

PERMUTATIONS = 128
MISSED_SHARE = 0.01
"""Of the pairs that lie exactly at the threshold, so many may be missed; pairs above it are missed less."""

LEAK_JACCARD = 0.7
"""From here on a test row counts as seen in training, whatever the use case calls a duplicate.

For short messages the usual 13 shared words are too lax (0.6 % of banking77's training rows) and 5 too strict (51 %).
"""

_BATCH = 2048
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Pair(NamedTuple):
    """Two documents by their places, `first < second`, and their Jaccard similarity."""

    first: int
    second: int
    jaccard: float


_NO_MATTER = regex.compile(r"[^\p{L}\p{N}\p{M}\p{P}\p{Sc}\p{Sm}]+|(?<!\p{N}\s?)\p{P}+|\p{P}+(?!\s?\p{N})")
# What stands between two digits stays: 1.50 is not 150, and 5-3 is not 5+3.


def plain_text(text: str) -> str:
    """The text without what makes no difference to a reader: case, punctuation, the width of gaps. Signs only: the text as it is."""
    return " ".join(_NO_MATTER.sub(" ", text.casefold()).split()) or text.strip()


def shingles(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """Hashes of the 5-character shingles of each plain text: S of them, sorted, each once. A shorter text is one shingle."""
    result: list[NDArray[np.uint64]] = []
    for start in range(0, len(texts), _BATCH):
        plain = [plain_text(text).ljust(SHINGLE, "\0") for text in texts[start : start + _BATCH]]
        lengths = np.array([len(text) for text in plain])
        codes = np.frombuffer("".join(plain).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(codes, SHINGLE)
        hashed = np.zeros(len(windows), dtype=np.uint64)
        for place in range(SHINGLE):
            hashed = _mixed(hashed + windows[:, place] + np.uint64(1))
        ends = np.cumsum(lengths)
        # A window that begins in one text and ends in the next belongs to neither.
        result += [np.unique(hashed[end - length : end - SHINGLE + 1]) for end, length in zip(ends, lengths, strict=True)]
    return result


def jaccard(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> float:
    """Shared shingles over all shingles of two texts, 0 to 1."""
    shared = np.intersect1d(left, right, assume_unique=True).size
    return shared / (left.size + right.size - shared)


def near_pairs(texts: Sequence[str], threshold: float) -> list[Pair]:
    """Pairs whose similarity is at least `threshold`, in order of their places.

    None of them is wrong; of those at the threshold about one in a hundred is missed, of those above fewer (`test_duplicates.py` counts).
    """
    if len(texts) < 2:
        return []
    sets = shingles(texts)
    candidates = _candidates(_signatures(sets), rows_per_band(threshold))
    pairs = []
    for first, second in tqdm(candidates, desc="near duplicates", unit="pair", disable=None):
        similarity = jaccard(sets[first], sets[second])
        if similarity >= threshold:
            pairs.append(Pair(first, second, similarity))
    return pairs


def rows_per_band(threshold: float) -> int:
    """How many of the 128 minima make one band: the most, so the fewest false candidates, that still find pairs at the threshold."""
    for rows in (8, 6, 5, 4, 3, 2):
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED_SHARE:
            return rows
    return 1


def groups(count: int, pairs: Sequence[Pair]) -> list[int]:
    """For each of `count` documents the place of the first one that it is connected with by pairs, directly or through others."""
    parent = list(range(count))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for pair in pairs:
        first, second = sorted((root(pair.first), root(pair.second)))
        parent[second] = first
    return [root(place) for place in range(count)]


def _signatures(sets: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint32]:
    """Minima of P hash functions over each document's shingles: D x P."""
    numbers = np.random.default_rng(0).integers(1, 2**63, size=(2, PERMUTATIONS, 1), dtype=np.uint64)
    factor, shift = numbers[0] | np.uint64(1), numbers[1]
    result = np.empty((len(sets), PERMUTATIONS), dtype=np.uint32)
    for start in range(0, len(sets), _BATCH):
        batch = sets[start : start + _BATCH]
        flat = np.concatenate(batch)
        begins = np.concatenate([[0], np.cumsum([len(one) for one in batch])[:-1]])
        for row in range(PERMUTATIONS):
            # Multiply-shift: the high half of a * x + b, modulo 2^64, is a universal hash.
            hashed = (flat * factor[row] + shift[row]) >> np.uint64(32)
            result[start : start + len(batch), row] = np.minimum.reduceat(hashed, begins)
    return result


def _candidates(signatures: NDArray[np.uint32], rows: int) -> list[tuple[int, int]]:
    """Pairs of documents that agree in all minima of at least one band, each once, in order."""
    count = len(signatures)
    found: set[int] = set()
    for start in range(0, PERMUTATIONS - rows + 1, rows):
        keys = np.zeros(count, dtype=np.uint64)
        for column in range(start, start + rows):
            keys = _mixed(keys + signatures[:, column].astype(np.uint64) + np.uint64(1))
        order = np.argsort(keys, kind="stable")
        begins = np.concatenate([[0], np.flatnonzero(np.diff(keys[order])) + 1, [count]])
        for bucket in np.flatnonzero(np.diff(begins) > 1):
            alike = order[begins[bucket] : begins[bucket + 1]]
            first, second = np.triu_indices(len(alike), k=1)
            found.update((alike[first] * count + alike[second]).tolist())
    return [divmod(code, count) for code in sorted(found)]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijective scramble of 64 bits (splitmix64's last step)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
