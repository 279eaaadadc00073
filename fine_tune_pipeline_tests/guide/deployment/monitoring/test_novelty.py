import numpy as np
import pytest
from scipy import sparse

from fine_tune_pipeline.guide.deployment.monitoring.novelty import closer, companions, far_shares, near
from fine_tune_pipeline.guide.deployment.monitoring.two_samples import Counted


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_the_nearest_and_the_mean_of_the_three_nearest_count():
    train = np.eye(4, dtype=np.float32)
    found = near(np.array([[1.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0]], dtype=np.float32), train)
    assert found.nearest == pytest.approx([1.0, 0.8])
    assert found.few == pytest.approx([1 / 3, 1.4 / 3])
    assert near(np.eye(4, dtype=np.float32)[:1], train[:1]).few == pytest.approx([1.0])


def test_far_texts_are_those_below_the_held_back_quantile():
    held_back = np.linspace(0.0, 1.0, 101)
    found = far_shares(np.array([0.01, 0.02, 0.5, 0.9]), held_back)
    assert (found.production, found.held_back) == (Counted(2, 4), Counted(5, 101))
    assert found.threshold == pytest.approx(0.05)


def test_a_text_sent_twice_is_no_companion_of_itself_nor_is_one_that_is_less_alike_than_training_texts():
    texts = unit(np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]))
    assert closer(texts, texts, np.array([0.5, 0.9, 0.5, 0.5])).tolist() == [
        [False, False, True, False],
        [False, False, False, False],
        [True, True, False, False],
        [False, False, False, False],
    ]


def test_companions_are_a_permutation_test():
    draw = np.random.default_rng(0)
    train, window, held_back = (unit(draw.normal(0, 1, (rows, 4))) for rows in (60, 20, 40))
    window = unit(np.concatenate([window[:14], draw.normal(0, 0.25, (6, 4)) + np.array([1.0, 1.0, 0.0, 0.0])]))
    nearest = [near(texts, train).nearest for texts in (window, held_back)]
    pooled, limits = np.concatenate([window, held_back]), np.concatenate(nearest)
    linked = np.array([[i != j and limits[i] < float(pooled[i] @ pooled[j]) < 0.95 for j in range(60)] for i in range(60)])

    def having(places: np.ndarray) -> int:
        return int(linked[np.ix_(places, places)].any(axis=1).sum())

    seen = having(np.arange(20))
    by_hand = [having(draw.permutation(60)[:20]) for _ in range(5000)]
    found = companions(
        closer(window, window, nearest[0]),
        (closer(window, held_back, nearest[0]), closer(held_back, window, nearest[1])),
        sparse.csr_matrix(closer(held_back, held_back, nearest[1])),
        seed=1,
    )
    assert found.seen == Counted(seen, 20)
    assert found.by_chance == pytest.approx(np.mean(by_hand) / 20, abs=0.01)
    assert found.outcome.p == pytest.approx(np.mean([many >= seen for many in by_hand]), abs=0.04)
    assert found.outcome.effect == pytest.approx(seen / 20 - found.by_chance)
