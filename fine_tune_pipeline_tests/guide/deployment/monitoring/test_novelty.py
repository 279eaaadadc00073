from math import comb

import numpy as np
import pytest
from scipy import sparse

from fine_tune_pipeline.guide.deployment.monitoring.novelty import closer, companions, far_shares, farther, near
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
    assert closer(texts @ texts.T, np.array([0.5, 0.9, 0.5, 0.5])).tolist() == [
        [False, False, True, False],
        [False, False, False, False],
        [True, True, False, False],
        [False, False, False, False],
    ]


def test_companions_are_a_permutation_test_weighed_by_distance_and_number():
    draw = np.random.default_rng(0)
    train, window, held_back = (unit(draw.normal(0, 1, (rows, 4))) for rows in (60, 20, 40))
    window = unit(np.concatenate([window[:14], draw.normal(0, 0.25, (6, 4)) + np.array([1.0, 1.0, 0.0, 0.0])]))
    pooled = np.concatenate([window, held_back])
    found_near = near(pooled, train)
    linked = np.array([[i != j and found_near.nearest[i] < float(pooled[i] @ pooled[j]) < 0.95 for j in range(60)] for i in range(60)])
    far = 1 - found_near.few.argsort().argsort() / 60

    def weight(places: np.ndarray) -> float:
        return sum(far[i] * min(4, sum(linked[i, j] for j in places)) for i in places)

    seen = weight(np.arange(20))
    by_hand = [weight(draw.permutation(60)[:20]) for _ in range(1500)]
    links = sparse.csr_matrix(closer(pooled @ pooled.T, found_near.nearest))
    found = companions(links, found_near.few, rows=20, seed=1)
    having = linked[:20, :20].any(axis=1)
    assert found.seen == Counted(int(having.sum()), 20)
    assert found.outcome.p == pytest.approx(np.mean([one >= seen - 1e-9 for one in by_hand]), abs=0.06)
    chance = [linked[np.ix_(order, order)].any(axis=1).mean() for order in (draw.permutation(60)[:20] for _ in range(1500))]
    assert found.by_chance == pytest.approx(np.mean(chance), abs=0.015)
    assert found.outcome.effect == pytest.approx(having.mean() - found.by_chance)


def smallest_p(order: np.ndarray, *, rows: int) -> float:
    """Of the three cuts, each tail counted by hand; `order` are texts from the farthest to the nearest, production's are the first rows."""
    whole, found = len(order), []
    for cut in (round(0.02 * whole), round(0.05 * whole), round(0.1 * whole)):
        hits = int((order[:cut] < rows).sum())
        ways = sum(comb(rows, k) * comb(whole - rows, cut - k) for k in range(hits, min(cut, rows) + 1))
        found.append(ways / comb(whole, cut))
    return min(found)


def test_too_many_of_the_farthest_is_exact_although_three_cuts_are_looked_at():
    draw = np.random.default_rng(1)
    production, held_back = draw.normal(0.75, 0.1, 40), draw.normal(0.8, 0.1, 160)
    seen = smallest_p(np.concatenate([production, held_back]).argsort(), rows=40)
    by_permutation = np.mean([smallest_p(draw.permutation(200), rows=40) <= seen * (1 + 1e-9) for _ in range(3000)])
    found = farther(production, held_back)
    assert found.p == pytest.approx(by_permutation, abs=0.03)
    assert found.effect == pytest.approx(
        (production < np.quantile(held_back, 0.05)).mean() - (held_back < np.quantile(held_back, 0.05)).mean()
    )


def test_quiet_windows_are_far_by_chance_as_often_as_promised():
    draw = np.random.default_rng(2)
    alarms = sum(farther(draw.normal(0, 1, 60), draw.normal(0, 1, 300)).p <= 0.1 for _ in range(300))
    # 10 % of 300 are 30; three standard deviations are 16.
    assert 14 <= alarms <= 46
