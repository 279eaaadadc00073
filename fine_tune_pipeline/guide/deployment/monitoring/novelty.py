"""Whether requests are unlike everything that the model was trained on: single ones that lie far, and groups that are like each other."""

from dataclasses import dataclass
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


def closer(texts: "np.ndarray", others: "np.ndarray", nearest: "np.ndarray") -> "np.ndarray":
    """Which of the others are more like a text than any training text is: bool [texts, others]; copies of it, and itself, do not count.

    Args:
        nearest: similarity of each text to the nearest training text.
    """
    similar = texts @ others.T
    return (similar > nearest[:, None]) & (similar < SAME)


@dataclass(frozen=True)
class Companions:
    """How many texts of a window have a companion there that is more like them than any training text, and how many would by chance."""

    outcome: Outcome
    seen: Counted
    by_chance: float


def companions(window: "np.ndarray", across: "tuple[np.ndarray, np.ndarray]", held_back: Any, *, seed: int) -> Companions:
    """Permutation test that more texts have companions in the window than in as many texts drawn from window and held-back texts together.

    Args:
        window: `closer` of the window's texts among themselves, bool [n, n].
        across: the same of the window's among held-back ones, bool [n, m], and the other way round, bool [m, n].
        held_back: the same of held-back ones among themselves, a sparse matrix [m, m].
    """
    import numpy as np
    from scipy import sparse

    whole = sparse.bmat(
        [[sparse.csr_matrix(window), sparse.csr_matrix(across[0])], [sparse.csr_matrix(across[1]), held_back]], format="csr"
    )
    masks = drawn(len(window), whole.shape[0], seed)
    having = ((whole.astype(np.float32) @ masks.T > 0) & (masks.T > 0)).sum(axis=0)
    seen = int(window.any(axis=1).sum())
    chance = float(having.mean()) / len(window)
    outcome = Outcome(p=share_of_permutations(having >= seen), effect=seen / len(window) - chance)
    return Companions(outcome=outcome, seen=Counted(seen, len(window)), by_chance=chance)
