import math
import random

import numpy as np
import pytest

from fine_tune_pipeline.programs.retrieval import FUSION_K, Retriever, WrongVectors, words

TEXTS = ["my card is lost", "the card does not work", "i need cash abroad", "cash came out short", "where is my statement"]


def unit(rows: int, width: int = 8, *, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lucene(query: list[str], chunks: list[list[str]], *, k1: float = 1.5, b: float = 0.75) -> list[float]:
    """BM25 written out: idf = ln(1 + (N - df + .5) / (df + .5)), tf saturated by k1, length by b."""
    mean = sum(map(len, chunks)) / len(chunks)
    scores = []
    for chunk in chunks:
        score = 0.0
        for word in query:
            df = sum(word in other for other in chunks)
            tf = chunk.count(word)
            idf = math.log(1 + (len(chunks) - df + 0.5) / (df + 0.5))
            score += idf * tf / (tf + k1 * (1 - b + b * len(chunk) / mean)) if df else 0.0
        scores.append(score)
    return scores


def fused_by_hand(query: str, vector: np.ndarray, texts: list[str], vectors: np.ndarray, *, without: int | None = None) -> list[int]:
    by_words = lucene(words(query), [words(text) for text in texts])
    by_meaning = [float(vector @ other) for other in vectors]
    places = [place for place in range(len(texts)) if place != without]
    ranked_words = sorted((place for place in places if by_words[place] > 0), key=lambda place: -by_words[place])
    ranked_meaning = sorted(places, key=lambda place: -by_meaning[place])
    score = {
        place: sum(1 / (FUSION_K + 1 + ranked.index(place)) for ranked in (ranked_words, ranked_meaning) if place in ranked)
        for place in places
    }
    return sorted(score, key=lambda place: (-score[place], place))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_that_of_both_ranks_fused_by_hand(seed: int):
    draw = random.Random(seed)
    vocabulary = ["card", "cash", "lost", "fee", "bank", "transfer", "pin", "limit"]
    texts = [" ".join(draw.choices(vocabulary, k=draw.randint(2, 9))) for _ in range(30)]
    vectors, queries = unit(30, seed=seed), unit(6, seed=seed + 100)
    asked = [" ".join(draw.choices([*vocabulary, "unknown"], k=4)) for _ in range(6)]
    found = Retriever(texts, vectors).search(asked, queries, k=30)
    assert found == [fused_by_hand(text, vector, texts, vectors) for text, vector in zip(asked, queries, strict=True)]


def test_the_score_is_the_sum_of_the_inverted_ranks_and_falls():
    vectors = unit(5)
    [found] = Retriever(TEXTS, vectors).scored(["zzz"], vectors[3:4], k=5)
    assert [score for _, score in found] == pytest.approx([1 / (FUSION_K + rank) for rank in range(1, 6)])
    [both] = Retriever(TEXTS, vectors).scored(TEXTS[3:4], vectors[3:4], k=1)
    assert both == [(3, pytest.approx(2 / (FUSION_K + 1)))]


def test_a_row_does_not_find_itself():
    vectors = unit(5)
    retriever = Retriever(TEXTS, vectors)
    assert retriever.search(TEXTS[:1], vectors[:1], k=5)[0][0] == 0
    [found] = retriever.search(TEXTS[:1], vectors[:1], k=5, without=[0])
    assert sorted(found) == [1, 2, 3, 4]
    assert found == fused_by_hand(TEXTS[0], vectors[0], TEXTS, vectors, without=0)


@pytest.mark.parametrize("query", ["", "zzz", "?!"])
def test_a_query_without_known_words_is_answered_by_meaning_alone(query: str):
    vectors = unit(5)
    [found] = Retriever(TEXTS, vectors).search([query], vectors[3:4], k=2)
    assert found == [int(place) for place in np.argsort(-(vectors @ vectors[3]))[:2]]


def test_chunks_without_any_word_are_found_by_meaning():
    vectors = unit(3)
    assert Retriever(["…", "??", "!"], vectors).search(["card"], vectors[2:], k=1) == [[2]]


def test_there_are_never_more_than_there_are():
    assert len(Retriever(TEXTS, unit(5)).search(["card"], unit(1), k=50)[0]) == 5


def test_more_chunks_than_are_ranked_give_the_same_first_as_all_of_them():
    vectors, queries = unit(400, seed=1), unit(20, seed=2)
    texts = [f"word{number % 7}" for number in range(400)]
    best = (queries @ vectors.T).argmax(axis=1)
    found = Retriever(texts, vectors).search(["none"] * 20, queries, k=1)
    assert [places[0] for places in found] == best.tolist()


def test_vectors_of_another_width_or_number_are_refused():
    with pytest.raises(WrongVectors, match="5 texts and 4 vectors"):
        Retriever(TEXTS, unit(4))
    with pytest.raises(WrongVectors, match="want 8 numbers"):
        Retriever(TEXTS, unit(5)).search(["card"], unit(1, 7), k=1)
