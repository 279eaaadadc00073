import numpy as np
import pytest

from fine_tune_pipeline.guide.deployment.monitoring.novelty import far_shares, nearest
from fine_tune_pipeline.guide.deployment.monitoring.two_samples import Counted


def test_the_nearest_reference_counts():
    reference = np.eye(3, dtype=np.float32)
    texts = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]], dtype=np.float32)
    assert nearest(texts, reference) == pytest.approx([1.0, 0.8])


def test_far_texts_are_those_below_the_held_back_quantile():
    held_back = np.linspace(0.0, 1.0, 101)
    found = far_shares(np.array([0.01, 0.02, 0.5, 0.9]), held_back)
    assert (found.production, found.held_back) == (Counted(2, 4), Counted(5, 101))
    assert found.threshold == pytest.approx(0.05)
