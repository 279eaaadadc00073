"""Which documents may be alike: MinHash signatures cut into bands; documents that agree in a whole band are candidates.

Arrays only: 256 bytes a document at 32 bands. Letters: D documents, P = 128 permutations, B bands, S shingles of a batch.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.guide.dataset.likeness.shingles import hashed

PERMUTATIONS = 128

MISSED_SHARE = 0.01
"""Of the pairs that lie exactly at the threshold, so many may be missed by default; pairs above it are missed less."""

NEIGHBOURS = 64
"""In one band a document is paired with the first of those that agree with it, and with so many that follow: a thousand copies of one
template make 64 thousand pairs, not half a million. A pair with the first of a cluster is never lost by this."""

_BATCH = 512
"""Documents whose shingles fit into the processor's cache."""

_WAITING = 2_000_000
"""So many pairs, with repetitions, are held before the unlikely ones are dropped: 16 MB, and some times as much while that is done."""

_TAIL = 1e-7
"""A pair at the threshold is passed over by its signature this rarely."""


class Signatures(NamedTuple):
    """Of each document the hash of each band (B x D), and one byte of each minimum (D x P)."""

    bands: NDArray[np.uint32]
    digests: NDArray[np.uint8]


def candidates(plain: Sequence[str], threshold: float, *, missed: float = MISSED_SHARE) -> NDArray[np.int64]:
    """Places of documents that may be alike: two columns, `first < second`, each pair once, in order.

    Args:
        plain: texts as they are compared.
        threshold: Jaccard similarity of their shingles from which pairs are wanted.
        missed: of the pairs that lie exactly at the threshold, at most this share may be missed.
    """
    found = signatures(plain, rows=rows_per_band(threshold, missed=missed))
    fewest, kept, waiting = fewest_agreements(threshold), [], []
    for first, second in (pair for band in found.bands for pair in _agreeing(band)):
        waiting.append(first * len(plain) + second)
        if sum(map(len, waiting)) > _WAITING:
            kept.append(_likely(waiting, found.digests, fewest))
            waiting = []
    kept.append(_likely(waiting, found.digests, fewest))
    return _places(_each_once(kept), len(plain))


def _likely(codes: Sequence[NDArray[np.int64]], digests: NDArray[np.uint8], fewest: int) -> NDArray[np.int64]:
    """Of pairs, as numbers, those whose signatures agree often enough, each once."""
    each = _each_once(codes)
    return each[_agreements(digests, _places(each, len(digests))) >= fewest]


def _places(codes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.stack(np.divmod(codes, max(count, 1)), axis=1)


def rows_per_band(threshold: float, *, missed: float = MISSED_SHARE) -> int:
    """How many of the 128 minima make one band: the most, so the fewest false candidates, that still find pairs at the threshold."""
    for rows in (8, 6, 5, 4, 3, 2):
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= missed:
            return rows
    return 1


def fewest_agreements(threshold: float) -> int:
    """In so many of the 128 minima two documents at the threshold agree, but for one pair in ten million."""
    below = 0.0
    for agreements in range(PERMUTATIONS):
        below += math.comb(PERMUTATIONS, agreements) * threshold**agreements * (1 - threshold) ** (PERMUTATIONS - agreements)
        if below > _TAIL:
            return agreements
    return PERMUTATIONS


def signatures(plain: Sequence[str], *, rows: int) -> Signatures:
    """MinHash of every document's shingles; `rows` minima make one band."""
    count = PERMUTATIONS // rows
    bands = np.empty((count, len(plain)), dtype=np.uint32)
    digests = np.empty((len(plain), PERMUTATIONS), dtype=np.uint8)
    for start in range(0, len(plain), _BATCH):
        minima = _minima(plain[start : start + _BATCH])
        part = slice(start, start + minima.shape[1])
        digests[part] = minima.astype(np.uint8).T
        keys = np.zeros((count, minima.shape[1]), dtype=np.uint32)
        for row in range(rows):
            keys = _mixed(keys * np.uint32(0x01000193) ^ minima[row : rows * count : rows])
        bands[:, part] = keys
    return Signatures(bands, digests)


def _minima(plain: Sequence[str]) -> NDArray[np.uint32]:
    """The least value of each hash function over each document's shingles: P x D."""
    shingles = hashed(plain)
    folded = _mixed((shingles.hashes ^ (shingles.hashes >> np.uint64(32))).astype(np.uint32))
    factors, shifts = _hash_functions()
    result = np.empty((PERMUTATIONS, len(plain)), dtype=np.uint32)
    values = np.empty_like(folded)
    for row in range(PERMUTATIONS):
        np.multiply(folded, factors[row], out=values)
        np.add(values, shifts[row], out=values)
        np.minimum.reduceat(values, shingles.begins, out=result[row])
    # Low bits of a * x + b repeat early, and are all that a digest keeps.
    return _mixed(result)


def _hash_functions() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    numbers = np.random.default_rng(0).integers(1, 2**32, size=(2, PERMUTATIONS), dtype=np.uint32)
    return numbers[0] | np.uint32(1), numbers[1]


def _agreeing(keys: NDArray[np.uint32]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places of documents that have the same key in one band, `first < second`; in a crowd see `NEIGHBOURS`."""
    order = np.sort((keys.astype(np.uint64) << np.uint64(32)) | np.arange(len(keys), dtype=np.uint64))
    keys, places = (order >> np.uint64(32)).astype(np.uint32), (order & np.uint64(0xFFFFFFFF)).astype(np.int64)
    begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    first_of = np.repeat(begins, np.diff(np.concatenate([begins, [len(keys)]])))
    left = np.arange(len(keys))
    for step in range(1, NEIGHBOURS + 1):
        left = left[left + step < len(keys)]
        left = left[keys[left] == keys[left + step]]
        if not len(left):
            return
        yield places[left], places[left + step]
    crowded = np.flatnonzero(np.arange(len(keys)) - first_of > NEIGHBOURS)
    yield places[first_of[crowded]], places[crowded]


def _each_once(codes: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Sorted, each once. (`np.unique` hashes, which takes ten times as long here.)"""
    ordered = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *codes]))
    return ordered[np.diff(ordered, prepend=-1) != 0]


def _agreements(digests: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """In how many minima, or rather their low bytes, the two documents of each pair agree."""
    result = np.empty(len(pairs), dtype=np.int64)
    for start in range(0, len(pairs), _BATCH * 8):
        part = pairs[start : start + _BATCH * 8]
        result[start : start + len(part)] = (digests[part[:, 0]] == digests[part[:, 1]]).sum(axis=1)
    return result


def _mixed(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A bijective scramble of 32 bits (the last step of MurmurHash3)."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))
