"""Looking up: words by BM25, meaning by the cosine of sentence embeddings, and both ranks fused.

Letters: N chunks, Q queries, D width of the embedding. No torch here: whoever searches brings the vectors of the queries.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FUSION_K = 60
"""Added to each rank before it is inverted, as in Cormack, Clarke and Büttcher (2009): it keeps the first places from deciding alone."""

DEPTH = 100
"""Ranks of each list that are fused: what neither list has among its first hundred is not looked up."""

_QUERY_ROWS = 512
"""Queries whose cosines with all chunks are in memory at once."""

_WORD = re.compile(r"\w+")


class WrongVectors(ValueError):
    """Vectors do not belong to these texts, or to the same encoder."""


def words(text: str) -> list[str]:
    """What BM25 counts: letters and digits that stand together, in lower case. No stop words, so that it is the same in any language."""
    return _WORD.findall(text.lower())


class Retriever:
    """Finds the chunks that are most like a query, by words and by meaning together.

    Args:
        texts: the chunks, N of them.
        vectors: float32 [N, D], unit length, in their order.

    Raises:
        WrongVectors: there are not as many vectors as texts.
    """

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        if len(texts) != len(vectors):
            raise WrongVectors(f"{len(texts)} texts and {len(vectors)} vectors; want one for each: materialize retrieval_index again")
        self._vectors = vectors
        self._bm25 = _bm25([words(text) for text in texts])

    def search(self, texts: Sequence[str], vectors: NDArray[np.float32], *, k: int, without: Sequence[int | None] = ()) -> list[list[int]]:
        """As `scored`, the places alone."""
        return [[place for place, _ in found] for found in self.scored(texts, vectors, k=k, without=without)]

    def scored(
        self, texts: Sequence[str], vectors: NDArray[np.float32], *, k: int, without: Sequence[int | None] = ()
    ) -> list[list[tuple[int, float]]]:
        """Places of the `k` nearest chunks of each query with their scores, the nearest first; fewer only where there are fewer chunks.

        Args:
            texts: Q queries.
            vectors: float32 [Q, D], of the same encoder.
            without: for each query the place of a chunk that it must not find, such as its own row.

        Raises:
            WrongVectors: the vectors have another width, or there is not one for each text.
        """
        if len(texts) != len(vectors) or vectors.shape[1:] != self._vectors.shape[1:]:
            raise WrongVectors(f"got vectors {vectors.shape} for {len(texts)} queries; want {self._vectors.shape[1]} numbers for each")
        left_out = without or [None] * len(texts)
        assert len(left_out) == len(texts)
        lists = zip(self._by_meaning(vectors, depth=max(DEPTH, k) + 1), texts, left_out, strict=True)
        return [self._fused(meaning, text, k=k, without=own) for meaning, text, own in lists]

    def _by_meaning(self, vectors: NDArray[np.float32], *, depth: int) -> Iterator[NDArray[np.intp]]:
        """Of each query the places of the nearest chunks, by falling cosine; of equals the earlier chunk."""
        depth = min(depth, len(self._vectors))
        for start in range(0, len(vectors), _QUERY_ROWS):
            for cosines in vectors[start : start + _QUERY_ROWS] @ self._vectors.T:
                yield _first(cosines, depth)

    def _by_words(self, text: str, *, depth: int) -> NDArray[np.intp]:
        """Places of the chunks that share a word with the text, by falling score."""
        asked = [] if self._bm25 is None else self._bm25.get_tokens_ids(words(text))
        if not asked:
            return np.empty(0, dtype=np.intp)
        assert self._bm25 is not None
        scores = self._bm25.get_scores_from_ids(asked)
        found = _first(scores, min(depth, len(scores)))
        return found[scores[found] > 0]

    def _fused(self, meaning: NDArray[np.intp], text: str, *, k: int, without: int | None) -> list[tuple[int, float]]:
        score: dict[int, float] = {}
        for ranked in (meaning, self._by_words(text, depth=len(meaning))):
            places = [int(place) for place in ranked if place != without]
            for rank, place in enumerate(places, start=1):
                score[place] = score.get(place, 0.0) + 1 / (FUSION_K + rank)
        return sorted(score.items(), key=lambda found: (-found[1], found[0]))[:k]


def _first(scores: NDArray[Any], depth: int) -> NDArray[np.intp]:
    """Places of the `depth` highest scores, falling; of equals the earlier place."""
    if depth < len(scores):
        # All that tie with the last one taken stay in the race, or chance would choose among them.
        least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        places = np.flatnonzero(scores >= least)
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")][:depth]


def _bm25(chunks: list[list[str]]) -> Any:
    """The index of words; None when no chunk has any."""
    if not any(chunks):
        return None
    import bm25s

    index = bm25s.BM25()
    index.index(chunks, show_progress=False)
    return index
