"""Rows that say the same in other words: near in the meaning of their questions, by sentence embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.cleaning.suspects import Embed
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import CLUSTER, Answers
from fine_tune_pipeline.guide.dataset.likeness.duplicates import Pairs, groups
from fine_tune_pipeline.guide.dataset.sources.collect import FEEDBACK
from fine_tune_pipeline.guide.dataset.steps import marked, out

_ROWS = 1024
"""So many rows are compared with all others at a time: 400 MB for 100,000 rows."""


@dataclass(frozen=True)
class Meant:
    """What is left, in the order it came, and what was taken out."""

    kept: list[Example]
    quarantine: list[Quarantined]


def semantic_pairs(vectors: NDArray[np.float32], cosine: float) -> Pairs:
    """Pairs of rows whose vectors have at least this cosine, in order of their places; every one of them, in time quadratic in the rows."""
    first, second, alike = [], [], []
    for start in range(0, len(vectors), _ROWS):
        products = vectors[start : start + _ROWS] @ vectors[start:].T
        row, column = np.nonzero(np.triu(products >= cosine, k=1))
        first.append(row + start)
        second.append(column + start)
        alike.append(products[row, column].astype(np.float64))
    if not first:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return Pairs(np.concatenate(first), np.concatenate(second), np.concatenate(alike))


def semantic_duplicates(examples: Sequence[Example], *, embed: Embed, cosine: float, remove: bool, answers: Answers) -> Meant:
    """Mark training rows whose question means nearly the same as that of one before, or take them out if the answer is the same too.

    Corrections from production come before others. The rows that stay are put into one cluster, so that the split keeps them together.
    Held-out rows are left alone: a test asks in other words on purpose.
    """
    train = sorted((example for example in examples if not example.held_out), key=lambda example: example.source != FEEDBACK)
    pairs = semantic_pairs(embed([example.question for example in train]), cosine)
    kept: dict[int, Example] = dict(enumerate(train))
    quarantine = []
    linked = []
    for first, second, alike in sorted(pairs, key=lambda pair: pair.second):
        if first not in kept or second not in kept:
            continue
        said = f"{alike:.2f} like {train[first].id} in meaning"
        if remove and answers.same(train[first], train[second]):
            quarantine.append(out(train[second], "semantic_duplicate", f"{said}, with the same answer"))
            del kept[second]
        else:
            linked.append((first, second))
            kept[second] = marked(kept[second], f"semantic_duplicate: {said}")
    by_id = {example.id: example for example in _together(kept, train, linked)}
    gone = {row.id for row in quarantine}
    return Meant([by_id.get(example.id, example) for example in examples if example.id not in gone], quarantine)


def _together(kept: dict[int, Example], train: Sequence[Example], linked: Sequence[tuple[int, int]]) -> list[Example]:
    """The kept rows, those that are linked in the cluster of the first of them."""
    first_of: dict[str, int] = {}
    same = [(first_of.setdefault(train[place].metadata.get(CLUSTER, train[place].id), place), place) for place in kept]
    root = groups(len(train), [*same, *(pair for pair in linked if pair[0] in kept and pair[1] in kept)])
    clusters = [train[place].metadata.get(CLUSTER, train[place].id) for place in root]
    return [replace(example, metadata={**example.metadata, CLUSTER: clusters[place]}) for place, example in kept.items()]
