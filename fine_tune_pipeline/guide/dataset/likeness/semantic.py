"""Rows that say the same in other words: near in the meaning of their questions, by sentence embeddings."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.sequences import Chosen, chosen, each
from fine_tune_pipeline.guide.dataset.cleaning.suspects import Embed
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import CLUSTER, Answers, of_one_conversation
from fine_tune_pipeline.guide.dataset.likeness.duplicates import Pairs, groups
from fine_tune_pipeline.guide.dataset.sources.production import FEEDBACK
from fine_tune_pipeline.guide.dataset.steps import Sifted, marked, out

_ROWS = 1024
"""So many rows are compared with all others at a time: 400 MB for 100,000 rows."""


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


def semantic_duplicates(examples: Sequence[Example], *, embed: Embed, cosine: float, remove: bool, answers: Answers) -> Sifted:
    """Mark training rows whose question means nearly the same as that of one before, or take them out if the answer is the same too.

    Corrections from production come before others. The rows that stay are put into one cluster, so that the split keeps them together.
    Held-out rows are left alone: a test asks in other words on purpose.
    """
    train = chosen(examples, _in_order(examples))
    pairs = semantic_pairs(embed(each(train, lambda example: example.question)), cosine)
    kept = np.ones(len(train), dtype=bool)
    gone: dict[int, str] = {}
    marks: dict[int, list[str]] = defaultdict(list)
    linked = []
    for first, second, alike in sorted(pairs, key=lambda pair: pair.second):
        if not (kept[first] and kept[second]) or of_one_conversation(train[first], train[second]):
            continue
        said = f"{alike:.2f} like {train[first].id} in meaning"
        place = int(train.places[second])
        if remove and answers.same(train[first], train[second]):
            gone[place], kept[second] = f"{said}, with the same answer", False
        else:
            linked.append((first, second))
            marks[place].append(f"semantic_duplicate: {said}")
    cluster = _together(train, kept, linked)

    def left(place: int, example: Example) -> Example:
        for said in marks.get(place, ()):
            example = marked(example, said)
        return replace(example, metadata={**example.metadata, CLUSTER: cluster[place]}) if place in cluster else example

    stay = np.setdiff1d(np.arange(len(examples)), list(gone))
    return Sifted(
        Chosen(examples, stay, left), Chosen(examples, list(gone), lambda place, example: out(example, "semantic_duplicate", gone[place]))
    )


def _in_order(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Places of training rows, corrections first."""
    train = [(example.source != FEEDBACK, place) for place, example in enumerate(examples) if not example.held_out]
    return np.array([place for _, place in sorted(train)], dtype=np.int64)


def _together(train: Chosen[Example, Example], kept: NDArray[np.bool_], linked: Sequence[tuple[int, int]]) -> dict[int, str]:
    """Place of a kept row -> its cluster: rows that are linked are in that of the first of them."""
    clusters = [example.metadata.get(CLUSTER, example.id) for example in train]
    first_of: dict[str, int] = {}
    same = [(first_of.setdefault(clusters[place], place), place) for place in np.flatnonzero(kept).tolist()]
    both = [pair for pair in linked if kept[pair[0]] and kept[pair[1]]]
    root = groups(len(train), np.array([*same, *both], dtype=np.int64).reshape(-1, 2))
    return {int(train.places[place]): clusters[root[place]] for place in np.flatnonzero(kept).tolist()}
