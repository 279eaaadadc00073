"""Sentence embeddings of the prompts of training and test rows: computed once with the predictions, read again by the report."""

import heapq
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.dataset.chance import by_hash
from fine_tune_pipeline.guide.dataset.cleaning.embedding import encoder_version
from fine_tune_pipeline.guide.technique.systems import embed_rows

if TYPE_CHECKING:
    import dagster as dg
    import numpy as np

    from fine_tune_pipeline.resources.compute.base import Compute

TRAIN_VECTORS, TEST_VECTORS = "train_vectors.npy", "test_vectors.npy"
"""In the predictions: unit vectors of the rows, in order; those of the training rows only where a system needed them."""

MOST_TRAINING_ROWS = 2_000
"""So many are embedded for the report alone, chosen by hash: about a minute on one core."""


@dataclass(frozen=True)
class Vectors:
    """float32 [rows, width], unit length: of the training rows at `places`, and of all test rows."""

    places: Sequence[int]
    train: "np.ndarray"
    test: "np.ndarray"


def keep_vectors(folder: Path, *, train: "np.ndarray | None", test: "np.ndarray") -> None:
    """Write the vectors that the systems looked at beside their answers."""
    import numpy as np

    np.save(folder / TEST_VECTORS, test, allow_pickle=False)
    if train is not None:
        np.save(folder / TRAIN_VECTORS, train, allow_pickle=False)


def vectors_of(
    context: "dg.AssetExecutionContext",
    compute: "Compute",
    folder: Path,
    predictions: Artifact,
    *,
    train: Sequence[Example],
    test: Sequence[Example],
) -> Vectors | None:
    """What the predictions kept, and what they did not keep embedded now; None where that needs an encoder and none is installed.

    Args:
        folder: the program's own; gone afterwards.
    """
    known, asked = (_kept(predictions, name) for name in (TRAIN_VECTORS, TEST_VECTORS))
    if known is not None and asked is not None:
        return Vectors(range(len(train)), known, asked)
    if encoder_version() is None:
        return None
    places = _some([example.id for example in train])
    vectors = embed_rows(context, compute, folder, [*(train[place] for place in places), *(test if asked is None else ())])
    shutil.rmtree(folder)
    return Vectors(places, vectors[: len(places)], vectors[len(places) :] if asked is None else asked)


def _kept(predictions: Artifact, name: str) -> "np.ndarray | None":
    import numpy as np

    return np.load(predictions.file(name), allow_pickle=False) if name in predictions.manifest.files else None


def _some(ids: Sequence[str]) -> Sequence[int]:
    if len(ids) <= MOST_TRAINING_ROWS:
        return range(len(ids))
    return sorted(heapq.nsmallest(MOST_TRAINING_ROWS, range(len(ids)), key=lambda place: by_hash(ids[place])))
