"""Whether requests are unlike everything that the model was trained on: single ones that lie far, and groups that are like each other."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.guide.deployment.monitoring.two_samples import Counted, Outcome, drawn, share_of_permutations

if TYPE_CHECKING:
    import numpy as np

FAR_QUANTILE = 0.05
"""A text is far when it is less like the nearest training texts than this share of the held-back texts are."""

NEIGHBOURS = 3
"""Nearest training texts whose mean similarity counts: a single one may be near by chance."""

SAME = 0.95
"""Texts that are more alike than this are one text sent twice, not a subject that several people ask about."""


MOST_COMPANIONS = 4
"""Of one text that count: a subject that is asked about often weighs more, but no single one decides."""

CUTS = (0.02, 0.05, 0.1)
"""Shares of all texts, the farthest, within which production's are counted: a few that lie very far, or more that lie rather far."""

DRAWS = 9_999


@dataclass(frozen=True)
class FarShares:
    """How many production and held-back texts are far from everything that the model was trained on."""

    threshold: float
    production: Counted
    held_back: Counted


@dataclass(frozen=True)
class Near:
    """Of each text its cosine similarity to the nearest training text, and the mean of that to the few nearest: float32 [texts] both."""

    nearest: "np.ndarray"
    few: "np.ndarray"


def near(texts: "np.ndarray", train: "np.ndarray") -> Near:
    """How like training texts each text is.

    Args:
        texts: float32 [texts, width], unit length.
        train: float32 [training texts, width], unit length, at least one.
    """
    import numpy as np

    few = min(NEIGHBOURS, len(train))
    best = np.partition(texts @ train.T, -few, axis=1)[:, -few:]
    return Near(nearest=best.max(axis=1), few=best.mean(axis=1))


def far_shares(production: "np.ndarray", held_back: "np.ndarray") -> FarShares:
    """Count far texts.

    Args:
        production: similarity of each production text to training texts.
        held_back: the same of validation and test texts, which the model was not trained on either.
    """
    import numpy as np

    threshold = float(np.quantile(held_back, FAR_QUANTILE))
    return FarShares(
        threshold=threshold,
        production=Counted(int((production < threshold).sum()), len(production)),
        held_back=Counted(int((held_back < threshold).sum()), len(held_back)),
    )


def farther(production: "np.ndarray", held_back: "np.ndarray") -> Outcome:
    """Exact test that too many of the farthest texts are production's.

    Of production and held-back texts together the farthest 2, 5 and 10 % are looked at: Fisher's exact test in each, and the smallest p is
    held against that of random draws, so that looking three times costs nothing in false alarms. The effect is the difference of the
    shares of far texts.

    Args:
        production: `Near.few` of production's texts.
        held_back: the same of held-back ones.
    """
    import numpy as np
    from scipy.stats import hypergeom

    rows, whole = len(production), len(production) + len(held_back)
    ranks = np.argsort(np.argsort(np.concatenate([production, held_back]), kind="stable"), kind="stable")[:rows]
    smallest = min(float(hypergeom.sf((ranks < cut).sum() - 1, whole, rows, cut)) for cut in _cuts(whole))
    by_chance = _smallest_by_chance(rows, whole)
    shares = far_shares(production, held_back)
    p = share_of_permutations(by_chance <= smallest * (1 + 1e-9))
    return Outcome(p=p, effect=shares.production.share - shares.held_back.share)


def _cuts(whole: int) -> list[int]:
    return [max(1, round(share * whole)) for share in CUTS]


@lru_cache(maxsize=64)
def _smallest_by_chance(rows: int, whole: int) -> "np.ndarray":
    """The smallest p of the cuts where production's texts lie among all at random: float64 [draws]."""
    import numpy as np
    from scipy.stats import hypergeom

    draw = np.random.default_rng(0)
    before, found, smallest = 0, np.zeros(DRAWS, dtype=np.int64), np.ones(DRAWS)
    for cut in _cuts(whole):
        left, others = rows - found, (whole - before) - (rows - found)
        found = found + draw.hypergeometric(left, others, cut - before)
        smallest = np.minimum(smallest, hypergeom.sf(np.arange(-1, rows), whole, rows, cut)[found])
        before = cut
    return smallest


def closer(similar: "np.ndarray", nearest: "np.ndarray") -> "np.ndarray":
    """Which texts are more like a text than any training text is: bool, as `similar`; copies of it, and itself, do not count.

    Args:
        similar: cosine similarity of each text to others, float32 [texts, others].
        nearest: that of each text to the nearest training text, float32 [texts].
    """
    return (similar > nearest[:, None]) & (similar < SAME)


@dataclass(frozen=True)
class Companions:
    """What the test of companions found, how many texts of the window have one, and the share that would have one by chance."""

    outcome: Outcome
    seen: Counted
    by_chance: float


def companions(links: Any, near_few: "np.ndarray", *, rows: int, seed: int) -> Companions:
    """Permutation test that texts of a window have more companions there than texts drawn from window and held-back texts together.

    Each text counts by how many companions it has, up to `MOST_COMPANIONS`, and by how far it lies from training texts: what is new is
    both a group and far.

    Args:
        links: `closer` of all texts among each other, a sparse matrix [texts, texts]; the window's come first.
        near_few: `Near.few` of all texts, in the same order.
        rows: how many are the window's.
    """
    import numpy as np

    whole = len(near_few)
    far = 1 - np.argsort(np.argsort(near_few, kind="stable"), kind="stable") / whole
    masks = drawn(rows, whole, seed)
    counts = np.minimum(links.astype(np.float32) @ masks.T, MOST_COMPANIONS) * masks.T
    own = np.asarray(links[:rows, :rows].sum(axis=1)).ravel()
    seen = float(far[:rows] @ np.minimum(own, MOST_COMPANIONS))
    chance = float((counts > 0).sum(axis=0).mean()) / rows
    having = Counted(int((own > 0).sum()), rows)
    p = share_of_permutations(far @ counts >= seen * (1 - 1e-9))
    return Companions(outcome=Outcome(p=p, effect=having.share - chance), seen=having, by_chance=chance)
