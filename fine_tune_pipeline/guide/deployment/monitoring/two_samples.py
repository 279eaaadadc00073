"""Two-sample tests of drift. Two samples, never thresholds from resampled windows: those gave 0.5 % to 18 % alarms for a nominal 5 %
(measured). Every p is valid whatever the data look like: exact tests, rank tests, or permutations."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

PERMUTATIONS = 499
"""The smallest p that can come out is 0.002: below what the lightest of the shipped tests needs at the default alpha, 0.04 / 19."""


@dataclass(frozen=True)
class Outcome:
    """One test: its p, and how large the difference is in the test's own unit."""

    p: float
    effect: float


@dataclass(frozen=True)
class Counted:
    """How many of so many."""

    hits: int
    rows: int

    @property
    def share(self) -> float:
        return self.hits / self.rows


def more_often(production: Counted, held_back: Counted) -> Outcome:
    """Fisher's exact test that something is more frequent in production; the effect is the difference of the shares."""
    from scipy.stats import fisher_exact

    table = [[side.hits, side.rows - side.hits] for side in (production, held_back)]
    found: Any = fisher_exact(table, alternative="greater")
    return Outcome(p=float(found.pvalue), effect=production.share - held_back.share)


def less_sure(production: Sequence[float], held_back: Sequence[float]) -> Outcome:
    """Mann-Whitney's rank test that production's values are lower.

    The effect is the probability that a value of production is below a held-back one (ties count half), less one half.

    Args:
        production: such as the mean log-probability of each answer, in nats.
        held_back: the same of the test set's answers.
    """
    from scipy.stats import mannwhitneyu

    found = mannwhitneyu(production, held_back, alternative="less")
    higher = float(found.statistic) / (len(production) * len(held_back))
    return Outcome(p=float(found.pvalue), effect=0.5 - higher)


def otherwise_spread(production: Sequence[float], held_back: Sequence[float]) -> Outcome:
    """Kolmogorov-Smirnov's test that values are spread otherwise; the effect is the largest distance of the two distribution functions."""
    from scipy.stats import ks_2samp

    found = ks_2samp(production, held_back, method="asymp")
    return Outcome(p=float(found.pvalue), effect=float(found.statistic))


def other_mean(production: "np.ndarray", held_back: "np.ndarray", *, seed: int) -> Outcome:
    """Permutation test that the mean vectors differ; the effect is their distance.

    Args:
        production: float32 [rows, width].
        held_back: float32 [other rows, width].
    """
    import numpy as np

    pooled = np.concatenate([production, held_back])
    pooled = pooled - pooled.mean(axis=0)
    # The two means of a centred whole lie opposite to each other: one of them says how far apart both are.
    sums = drawn(len(production), len(pooled), seed) @ pooled
    distances = (sums**2).sum(axis=1)
    seen = float((pooled[: len(production)].sum(axis=0) ** 2).sum())
    effect = float(np.linalg.norm(production.mean(axis=0) - held_back.mean(axis=0)))
    # Equal up to rounding counts as at least as far.
    return Outcome(p=share_of_permutations(distances >= seen * (1 - 1e-6)), effect=effect)


def other_shares(production: Sequence[str], held_back: Sequence[str], *, seed: int) -> Outcome:
    """Permutation test, by chi-squared, that classes have other shares; the effect is the total variation distance of the shares."""
    import numpy as np

    classes = {name: place for place, name in enumerate(sorted({*production, *held_back}))}
    counts = [np.bincount([classes[name] for name in side], minlength=len(classes)) for side in (production, held_back)]
    pooled = counts[0] + counts[1]
    wanted = pooled * len(production) / pooled.sum()
    draws = np.random.default_rng(seed).multivariate_hypergeometric(pooled, len(production), size=PERMUTATIONS)
    distances = ((draws - wanted) ** 2 / wanted).sum(axis=1)
    seen = float(((counts[0] - wanted) ** 2 / wanted).sum())
    effect = float(np.abs(counts[0] / len(production) - counts[1] / len(held_back)).sum() / 2)
    return Outcome(p=share_of_permutations(distances >= seen * (1 - 1e-9)), effect=effect)


def share_of_permutations(as_far: "np.ndarray") -> float:
    """What was seen is one of the permutations too."""
    return (1 + int(as_far.sum())) / (1 + len(as_far))


@lru_cache(maxsize=4)
def drawn(rows: int, whole: int, seed: int) -> "np.ndarray":
    """Which rows each permutation takes for production: float32 [permutations, whole], ones and zeros."""
    import numpy as np

    mask = np.zeros((PERMUTATIONS, whole), dtype=np.float32)
    mask[:, :rows] = 1
    return np.random.default_rng(seed).permuted(mask, axis=1)
