"""What is looked up for a question: the one place, so that training, prediction and the endpoint find the same passages. No torch here.

Letters: Q questions, D width of the embedding.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.artifacts.examples import BrokenLine, Example, Passage, read_rows
from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.programs.retrieval import Retriever, WrongVectors
from fine_tune_pipeline.programs.token_bounds import FRAME_TOKENS, most_tokens

FILE, CHUNKS, VECTORS, TRAIN_VECTORS = "index.json", "chunks.jsonl", "vectors.npy", "train_vectors.npy"

SERVED = (FILE, CHUNKS, VECTORS)
"""Files that looking up needs; the others hold rows of the dataset."""

DOCUMENTS: Literal["documents"] = "documents"
TRAINING: Literal["training answers"] = "training answers"
Source = Literal["documents", "training answers"]


class DamagedIndex(ValueError):
    """A folder holds no index that can be searched."""


@dataclass(frozen=True)
class Entry:
    """One thing that can be found: `text` is what is searched, `passage` what stands in the prompt, `title` where a part of a document
    comes from (empty for a training row)."""

    id: str
    text: str
    passage: Passage
    title: str = ""

    @property
    def tokens(self) -> int:
        """In a prompt, at most."""
        return sum(most_tokens(text) + FRAME_TOKENS for text in self.passage.values())


@dataclass(frozen=True)
class Found:
    """An entry and its score, the sum of its inverted ranks: only to be compared within one question."""

    entry: Entry
    score: float


@dataclass(frozen=True)
class Index:
    """Entries with their embeddings (float32 [entries, D], unit length), and those of the training rows, in their order. `encoder` names
    what made them, empty where that was not written down."""

    source: Source
    entries: Sequence[Entry]
    vectors: NDArray[np.float32]
    train_vectors: NDArray[np.float32] | None = None
    encoder: str = ""

    @cached_property
    def retriever(self) -> Retriever:
        return Retriever([entry.text for entry in self.entries], self.vectors)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {entry.id: place for place, entry in enumerate(self.entries)} if self.source == TRAINING else {}

    def nearest(self, rows: Sequence[Example], vectors: NDArray[np.float32], *, k: int) -> list[list[Entry]]:
        """The `k` nearest entries of each row, the nearest first; a training row never finds itself."""
        found = self._found([row.question for row in rows], vectors, k=k, ids=[row.id for row in rows])
        return [[each.entry for each in one] for one in found]

    def fitting(
        self, questions: Sequence[str], vectors: NDArray[np.float32], *, k: int, room: int, ids: Sequence[str] = ()
    ) -> list[list[Found]]:
        """What stands in the prompt of each question, the nearest last: models heed most what stands next to the question.

        Args:
            questions: all that was said before the answer, Q times.
            vectors: float32 [Q, D] of these texts.
            k: passages for each question, fewer where they would not fit.
            room: tokens for question and passages together.
            ids: of the rows whose questions these are; a training row never finds itself.
        """
        return [
            _fitting(found, room=room - most_tokens(question))
            for question, found in zip(questions, self._found(questions, vectors, k=k, ids=ids), strict=True)
        ]

    def looked_up(self, rows: Sequence[Example], vectors: NDArray[np.float32], *, k: int, room: int) -> list[Example]:
        """The rows with their passages; see `fitting`."""
        found = self.fitting([row.question for row in rows], vectors, k=k, room=room, ids=[row.id for row in rows])
        return [replace(row, context=[each.entry.passage for each in one]) for row, one in zip(rows, found, strict=True)]

    def _found(self, questions: Sequence[str], vectors: NDArray[np.float32], *, k: int, ids: Sequence[str]) -> list[list[Found]]:
        own = [self._place.get(id) for id in ids]
        found = self.retriever.scored(questions, vectors, k=k, without=own)
        return [[Found(self.entries[place], score) for place, score in one] for one in found]


def read_index(folder: Path) -> Index:
    """The index in a folder; words are counted anew when it is first searched.

    Raises:
        DamagedIndex: a file is missing or does not belong to the others.
    """
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        source, encoder = about["source"], about.get("encoder") or ""
        entries = [Entry(**row) for row in read_rows(folder / CHUNKS)]
        vectors = np.load(folder / VECTORS, allow_pickle=False)
        apart = folder / TRAIN_VECTORS
        train = np.load(apart, allow_pickle=False) if apart.exists() else vectors if source == TRAINING else None
        if len(entries) != len(vectors):
            raise WrongVectors(f"{len(entries)} entries and {len(vectors)} vectors")
    except (OSError, ValueError, KeyError, TypeError, EOFError, BrokenLine) as error:
        raise DamagedIndex(
            f"{folder}: no index that can be searched ({type(error).__name__}: {error}); materialize retrieval_index again"
        ) from error
    return Index(source, entries, vectors, train, encoder)


def index_sha256(folder: Path) -> str:
    """SHA-256 over what looking up needs: the hashes of its files, in a fixed order.

    Raises:
        DamagedIndex: one of them is missing.
    """
    try:
        return hashlib.sha256("".join(file_sha256(folder / name) for name in SERVED).encode()).hexdigest()
    except OSError as error:
        raise DamagedIndex(f"{folder}: {error}; materialize retrieval_index again") from error


def _fitting(found: Sequence[Found], *, room: int) -> list[Found]:
    """As many of the nearest as have room, the nearest last."""
    taken: list[Found] = []
    for each in found:
        room -= each.entry.tokens
        if room < 0:
            break
        taken.insert(0, each)
    return taken
