"""Looks for test and validation prompts that training has seen, without trusting the steps that should have kept them apart.

Exact: every pair of prompts that share a shingle is counted through an inverted index, no hashing trick proposes candidates.
"""

from collections.abc import Sequence

import numpy as np

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.duplicates import LEAK_JACCARD, Pair, shingles


def leaks(train: Sequence[Example], other: Sequence[Example], *, threshold: float = LEAK_JACCARD) -> list[Pair]:
    """Pairs (place in `train`, place in `other`) whose prompts are at least so similar, most similar first."""
    if not train or not other:
        return []
    sets = shingles([example.prompt for example in train])
    sizes = np.array([len(one) for one in sets])
    flat = np.concatenate(sets)
    owner = np.repeat(np.arange(len(sets)), sizes)
    order = np.argsort(flat, kind="stable")
    flat, owner = flat[order], owner[order]
    found = []
    for place, mine in enumerate(shingles([example.prompt for example in other])):
        begin, end = np.searchsorted(flat, mine, side="left"), np.searchsorted(flat, mine, side="right")
        owners = np.concatenate([owner[first:last] for first, last in zip(begin, end, strict=True)])
        shared = np.bincount(owners, minlength=len(sets))
        similarity = shared / (sizes + len(mine) - shared)
        found += [Pair(int(row), place, float(similarity[row])) for row in np.flatnonzero(similarity >= threshold)]
    return sorted(found, key=lambda pair: -pair.jaccard)
