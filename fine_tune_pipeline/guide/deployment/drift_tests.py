"""Two-sample tests of drift, and the correction for making several. Two samples, never thresholds from resampled windows: those gave
0.5 % to 18 % alarms for a nominal 5 % (measured)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FAR_QUANTILE = 0.05
"""A text is far when it is less like its nearest training text than this share of the held-back texts are."""


@dataclass(frozen=True)
class Outcome:
    """One test: `p` one-sided, and how large the difference is in the test's own unit."""

    p: float
    effect: float


@dataclass(frozen=True)
class FarShares:
    """How many production and held-back texts are far from everything that the model was trained on."""

    threshold: float
    production_far: int
    production: int
    held_back_far: int
    held_back: int

    @property
    def production_share(self) -> float:
        return self.production_far / self.production

    @property
    def held_back_share(self) -> float:
        return self.held_back_far / self.held_back


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
        production_far=int((production < threshold).sum()),
        production=len(production),
        held_back_far=int((held_back < threshold).sum()),
        held_back=len(held_back),
    )


def more_far(shares: FarShares) -> Outcome:
    """Fisher's exact test that production has a larger share of far texts; the effect is the difference of the shares."""
    from scipy.stats import fisher_exact

    table = [
        [shares.production_far, shares.production - shares.production_far],
        [shares.held_back_far, shares.held_back - shares.held_back_far],
    ]
    found: Any = fisher_exact(table, alternative="greater")
    return Outcome(p=float(found.pvalue), effect=shares.production_share - shares.held_back_share)


def less_sure(production: Sequence[float], held_back: Sequence[float]) -> Outcome:
    """Mann-Whitney's rank test that production answers are given with less confidence than held-back ones.

    The effect is the probability that a production answer is less sure than a held-back one (ties count half), less one half.

    Args:
        production: mean log-probability of each answer, in nats.
        held_back: the same of the test set's answers.
    """
    from scipy.stats import mannwhitneyu

    found = mannwhitneyu(production, held_back, alternative="less")
    surer = float(found.statistic) / (len(production) * len(held_back))
    return Outcome(p=float(found.pvalue), effect=0.5 - surer)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values: comparing each with alpha keeps the chance of any false alarm of the family at alpha (Holm 1979)."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
