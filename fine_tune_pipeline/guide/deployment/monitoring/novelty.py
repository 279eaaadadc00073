"""Whether requests are unlike everything that the model was trained on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fine_tune_pipeline.guide.deployment.monitoring.two_samples import Counted

if TYPE_CHECKING:
    import numpy as np

FAR_QUANTILE = 0.05
"""A text is far when it is less like its nearest training text than this share of the held-back texts are."""


@dataclass(frozen=True)
class FarShares:
    """How many production and held-back texts are far from everything that the model was trained on."""

    threshold: float
    production: Counted
    held_back: Counted


def nearest(texts: "np.ndarray", reference: "np.ndarray") -> "np.ndarray":
    """Cosine similarity of each text to the nearest reference text: float32 [texts].

    Args:
        texts: float32 [texts, width], unit length.
        reference: float32 [references, width], unit length, at least one.
    """
    return (texts @ reference.T).max(axis=1)


def far_shares(production: "np.ndarray", held_back: "np.ndarray") -> FarShares:
    """Count far texts.

    Args:
        production: similarity of each production text to the nearest training text.
        held_back: the same of validation and test texts, which the model was not trained on either.
    """
    import numpy as np

    threshold = float(np.quantile(held_back, FAR_QUANTILE))
    return FarShares(
        threshold=threshold,
        production=Counted(int((production < threshold).sum()), len(production)),
        held_back=Counted(int((held_back < threshold).sum()), len(held_back)),
    )
