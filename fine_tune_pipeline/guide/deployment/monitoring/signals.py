"""All tests of one window together: which say that production differs, and what each calls for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from fine_tune_pipeline.guide.deployment.monitoring.holm import weighted_holm
from fine_tune_pipeline.guide.deployment.monitoring.novelty import FarShares, Near, closer, companions, far_shares, farther, near
from fine_tune_pipeline.guide.deployment.monitoring.two_samples import (
    Counted,
    Outcome,
    less_sure,
    more_often,
    other_mean,
    other_shares,
    otherwise_spread,
)
from fine_tune_pipeline.programs.requests import Contract

if TYPE_CHECKING:
    import numpy as np

EXAMPLES = 5

FEWEST = 20
"""On either side; a signal with fewer values is left out."""

Action = Literal["retrain", "look", "roll back"]


@dataclass(frozen=True)
class Answers:
    """What a model answered. A list may be shorter than others where something is not known of some answers, or empty.

    `sure` are mean log-probabilities in nats, `classes` the class of each answer ("" if none), `lengths` characters; the last two say which
    answers do not fit the task, and which refuse.
    """

    sure: Sequence[float] = ()
    classes: Sequence[str] = ()
    lengths: Sequence[int] = ()
    invalid: Sequence[bool] = ()
    refused: Sequence[bool] = ()


@dataclass(frozen=True)
class Sample:
    """Texts and what was answered to them: embeddings, float32 [texts, width], and characters of each text."""

    vectors: "np.ndarray"
    lengths: Sequence[int]
    answers: Answers = field(default_factory=Answers)


@dataclass(frozen=True)
class Reference:
    """What windows are compared with: embeddings of training texts, float32 [texts, width], and held-back texts with evaluated answers."""

    train: "np.ndarray"
    held_back: Sample
    seed: int

    @cached_property
    def near(self) -> Near:
        """How like training texts the held-back ones are."""
        return near(self.held_back.vectors, self.train)

    @cached_property
    def companions(self) -> Any:
        """Which held-back texts are more like each other than like training texts: sparse [texts, texts]."""
        from scipy import sparse

        return sparse.csr_matrix(closer(self.held_back.vectors @ self.held_back.vectors.T, self.near.nearest))


@dataclass(frozen=True)
class Compared:
    """A window, and what it is compared with."""

    window: Sample
    reference: Reference

    @property
    def held_back(self) -> Sample:
        return self.reference.held_back

    @cached_property
    def near(self) -> Near:
        """How like training texts the window's are."""
        return near(self.window.vectors, self.reference.train)


class Signal(Contract):
    """One test. `adjusted` is p after Holm's correction; `examples` are requests of the window, those that speak loudest first."""

    name: str
    asks: str
    calls_for: Action
    p: float
    adjusted: float
    effect: float
    effect_means: str
    production: int
    reference: int
    alarm: bool
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a test found; `loudness` orders the window's rows, the largest first, where some speak louder than others."""

    outcome: Outcome
    means: str
    production: int
    reference: int
    loudness: "Sequence[float] | np.ndarray | None" = None


@dataclass(frozen=True)
class Kind:
    """A signal of the family: what it asks, what its alarm calls for, and its weight in the correction."""

    asks: str
    calls_for: Action
    weight: float
    test: Callable[[Compared], Found | None]


def judge(compared: Compared, *, alpha: float, texts: Sequence[str]) -> tuple[Signal, ...]:
    """All tests that the window has the values for, corrected for their number.

    Args:
        alpha: chance of any false alarm in one window.
        texts: the requests of the window, in order; examples are taken from them.
    """
    found = {name: done for name, kind in FAMILY.items() if (done := kind.test(compared)) is not None}
    adjusted = weighted_holm({name: done.outcome.p for name, done in found.items()}, {name: FAMILY[name].weight for name in found})
    return tuple(
        Signal(
            name=name,
            asks=FAMILY[name].asks,
            calls_for=FAMILY[name].calls_for,
            p=done.outcome.p,
            adjusted=adjusted[name],
            effect=done.outcome.effect,
            effect_means=done.means,
            production=done.production,
            reference=done.reference,
            alarm=adjusted[name] <= alpha,
            examples=tuple(_loudest(texts, done.loudness)),
        )
        for name, done in found.items()
    )


def far_of(compared: Compared) -> FarShares:
    """How many texts of the window are far from everything that the model was trained on."""
    return far_shares(compared.near.few, compared.reference.near.few)


def _loudest(texts: Sequence[str], loudness: "Sequence[float] | np.ndarray | None") -> Iterator[str]:
    if loudness is None:
        return
    for place in sorted(range(len(texts)), key=lambda place: -loudness[place])[:EXAMPLES]:
        yield texts[place]


def _far_share(compared: Compared) -> Found | None:
    shares = far_of(compared)
    means = f"{shares.production.share:.1%} of the requests are far, {shares.held_back.share:.1%} of the held-back texts"
    outcome = farther(compared.near.few, compared.reference.near.few)
    return Found(outcome, means, shares.production.rows, shares.held_back.rows, -compared.near.few)


def _new_subjects(compared: Compared) -> Found | None:
    import numpy as np
    from scipy import sparse

    reference, window = compared.reference, compared.window.vectors
    held_back = reference.held_back.vectors
    alike, likewise = window @ window.T, window @ held_back.T
    among = closer(alike, compared.near.nearest)
    across = closer(likewise, compared.near.nearest), closer(likewise.T, reference.near.nearest)
    links = sparse.bmat(
        [[sparse.csr_matrix(among), sparse.csr_matrix(across[0])], [sparse.csr_matrix(across[1]), reference.companions]], format="csr"
    )
    near_few = np.concatenate([compared.near.few, reference.near.few])
    found = companions(links, near_few, rows=len(window), seed=reference.seed)
    means = f"{found.seen.share:.1%} of the requests are nearer to another one than to training texts, {found.by_chance:.1%} by chance"
    # Those that are most alike, and far from what is known.
    excess = (alike * among).max(axis=1) - compared.near.nearest
    return Found(found.outcome, means, len(window), len(held_back), np.where(among.any(axis=1), excess, -1.0))


def _confidence(compared: Compared) -> Found | None:
    production, held_back = compared.window.answers.sure, compared.held_back.answers.sure
    if min(len(production), len(held_back)) < FEWEST:
        return None
    outcome = less_sure(production, held_back)
    means = f"a production answer is less sure than an evaluated one with probability {0.5 + outcome.effect:.2f}"
    # Known of all rows of the window, or examples would be of others.
    loudness = [-sure for sure in production] if len(production) == len(compared.window.lengths) else None
    return Found(outcome, means, len(production), len(held_back), loudness)


def _mean_embedding(compared: Compared) -> Found | None:
    window, held_back = compared.window.vectors, compared.held_back.vectors
    outcome = other_mean(window, held_back, seed=compared.reference.seed)
    means = f"the mean embeddings lie {outcome.effect:.3f} apart"
    return Found(outcome, means, len(window), len(held_back), window @ (window.mean(axis=0) - held_back.mean(axis=0)))


def _prompt_length(compared: Compared) -> Found | None:
    return _lengths(compared.window.lengths, compared.held_back.lengths, "a request")


def _answer_length(compared: Compared) -> Found | None:
    return _lengths(compared.window.answers.lengths, compared.held_back.answers.lengths, "an answer")


def _lengths(production: Sequence[int], held_back: Sequence[int], what: str) -> Found | None:
    if min(len(production), len(held_back)) < FEWEST:
        return None
    outcome = otherwise_spread(production, held_back)
    means = f"half of them: {what} of {_median(production)} characters, {_median(held_back)} before; largest distance {outcome.effect:.2f}"
    return Found(outcome, means, len(production), len(held_back))


def _class_shares(compared: Compared) -> Found | None:
    production, held_back = compared.window.answers.classes, compared.held_back.answers.classes
    if min(len(production), len(held_back)) < FEWEST:
        return None
    outcome = other_shares(production, held_back, seed=compared.reference.seed)
    return Found(outcome, f"{outcome.effect:.1%} of the answers fall into other classes", len(production), len(held_back))


def _invalid(compared: Compared) -> Found | None:
    return _flags(compared.window.answers.invalid, compared.held_back.answers.invalid, "do not fit the task")


def _refused(compared: Compared) -> Found | None:
    return _flags(compared.window.answers.refused, compared.held_back.answers.refused, "refuse")


def _flags(production: Sequence[bool], held_back: Sequence[bool], what: str) -> Found | None:
    if min(len(production), len(held_back)) < FEWEST:
        return None
    now, before = Counted(sum(production), len(production)), Counted(sum(held_back), len(held_back))
    # Where there is not one on either side, no p below 1 can come out, so the test takes no part in the correction (Tarone 1990).
    if not now.hits + before.hits:
        return None
    return Found(
        more_often(now, before), f"{now.share:.1%} of the answers {what}, {before.share:.1%} on the test set", now.rows, before.rows
    )


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


FAMILY: Mapping[str, Kind] = {
    "far_share": Kind(
        "Do more requests than held-back texts lie far from everything that the model was trained on? (Fisher's exact test, three cuts)",
        "retrain",
        6.0,
        _far_share,
    ),
    "new_subjects": Kind(
        "Are more requests than by chance nearer to each other than to anything that the model was trained on? (permutation test)",
        "retrain",
        4.0,
        _new_subjects,
    ),
    "confidence": Kind(
        "Is the model less sure of its answers than on the test set? (Mann-Whitney's rank test)", "retrain", 3.0, _confidence
    ),
    "mean_embedding": Kind("Has the mix of subjects moved? (permutation test of the mean embeddings)", "look", 1.0, _mean_embedding),
    "prompt_length": Kind("Are requests longer or shorter? (Kolmogorov-Smirnov)", "look", 1.0, _prompt_length),
    "class_shares": Kind("Are other classes answered more often? (permutation test of chi-squared)", "look", 1.0, _class_shares),
    "answer_length": Kind("Are answers longer or shorter than on the test set? (Kolmogorov-Smirnov)", "look", 1.0, _answer_length),
    "invalid": Kind("Do more answers than on the test set not fit the task? (Fisher's exact test)", "roll back", 1.0, _invalid),
    "refused": Kind("Do more answers than on the test set refuse? (Fisher's exact test)", "roll back", 1.0, _refused),
}
"""The tests that together mean drift. What speaks most plainly of the unknown may spend most of alpha."""
