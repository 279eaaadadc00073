"""Does the endpoint answer as evaluated? The same held-out prompts over HTTP: some one after the other and timed, others together."""

import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.manifest import Check
from fine_tune_pipeline.guide.deployment.kept_score import KeptScore

LEAST_SHARE = 0.98
"""Of answers that must be equal: float32 on the same machine gave 50 of 50; one in fifty may differ by the order of a sum."""

HOSTED_LEAST_SHARE = 0.9
"""The same of a hosted model: its provider computes each answer beside those of others, so sums, and with them answers, may differ."""

MOST_BASE_PROMPTS = 8
"""So many prompts may the base model answer like the version before we say that the adapter does nothing."""

TIMED = 20
"""So many prompts are asked one at a time; the 95th percentile is then the second slowest of them."""

TOGETHER = 8
"""So many of the others are asked at once, as production does: the endpoint answers them in batches."""

SHOWN = 5


class Answers(Protocol):
    """Gives the endpoint's answer; `model` names the version, or the base."""

    def __call__(self, asked: Asked, *, model: str) -> str: ...


@dataclass(frozen=True)
class Evaluated:
    """What a held-out row asks, and the answer that was evaluated."""

    id: str
    asked: Asked
    evaluated: str


@dataclass(frozen=True)
class Parity:
    """What came of the comparison. `differs_from_base` is None when the base was not asked; `seconds` are those of the answers that were
    asked for one at a time; `score` is looked at where some answers may differ, None elsewhere."""

    asked: int
    equal: int
    differs_from_base: bool | None
    seconds: tuple[float, ...]
    differences: tuple[dict[str, str], ...]
    least_share: float = LEAST_SHARE
    score: KeptScore | None = None

    @property
    def share(self) -> float:
        return self.equal / self.asked

    @property
    def passed(self) -> bool:
        return self.share >= self.least_share and bool(self.differs_from_base) and (self.score is None or self.score.same)

    @property
    def p95_seconds(self) -> float:
        """The time that 95 % of the answers did not exceed."""
        return sorted(self.seconds)[math.ceil(0.95 * len(self.seconds)) - 1]


def sample(rows: Sequence[Evaluated], count: int, *, seed: int) -> list[Evaluated]:
    """At most `count` of the rows, drawn by `seed`, so that a file sorted by class gives all classes."""
    return list(rows) if len(rows) <= count else random.Random(seed).sample(list(rows), count)


def compare(rows: Sequence[Evaluated], answer: Answers, *, version: str, base: str, least_share: float = LEAST_SHARE) -> Parity:
    """Ask the version all prompts, and the base as many as it takes to see a difference.

    Args:
        rows: at least one.
        answer: what it raises goes through: an endpoint that does not answer has no parity.
        version: model name of the version.
        base: model name of the base.
        least_share: of answers that must be equal.
    """
    assert rows
    served, seconds = [], []
    for row in rows[:TIMED]:
        started = time.monotonic()
        served.append(answer(row.asked, model=version))
        seconds.append(time.monotonic() - started)
    with ThreadPoolExecutor(TOGETHER) as pool:
        served.extend(pool.map(lambda row: answer(row.asked, model=version), rows[TIMED:]))
    pairs = list(zip(rows, served, strict=True))
    differences = tuple({"id": row.id, "evaluated": row.evaluated, "served": text} for row, text in pairs if text != row.evaluated)
    return Parity(
        asked=len(rows),
        equal=len(rows) - len(differences),
        differs_from_base=any(answer(row.asked, model=base) != text for row, text in pairs[:MOST_BASE_PROMPTS]),
        seconds=tuple(seconds),
        differences=differences,
        least_share=least_share,
    )


def parity_check(parity: Parity) -> Check:
    """Blocking: a version that answers otherwise than evaluated does not get the champion's alias."""
    said = f"{parity.equal} of {parity.asked} served answers equal the evaluated ones, want {parity.least_share:.0%}"
    if parity.share < parity.least_share:
        said += "; the endpoint serves something else than what was evaluated: see `differences`, then materialize predictions again"
    if parity.score is not None:
        said += f"; {parity.score.said}"
    if parity.differs_from_base is False:
        said += f"; the base model gives the same answers to {min(parity.asked, MOST_BASE_PROMPTS)} prompts: the adapter does nothing"
    differences: list[dict[str, Any]] = [dict(row) for row in parity.differences[:SHOWN]]
    metadata = {"equal": parity.equal, "asked": parity.asked, "share": parity.share, "differences": differences or "none"}
    return Check(name="parity", passed=parity.passed, description=said, metadata=metadata)


def latency_check(parity: Parity, *, limit_seconds: float | None) -> Check:
    """Advisory: a busy machine is no fault of the model."""
    said = f"95 % of {len(parity.seconds)} answers came within {parity.p95_seconds:.2f} s, one at a time"
    if limit_seconds is None:
        return Check(
            name="latency", passed=True, blocking=False, description=f"{said}; objective.limits.p95_latency_seconds asks for nothing"
        )
    passed = parity.p95_seconds <= limit_seconds
    said += f", want {limit_seconds:g} s"
    if not passed:
        said += "; if the machine was busy, materialize the endpoint again; else a faster machine or a smaller base model is needed"
    return Check(name="latency", passed=passed, blocking=False, description=said, metadata={"p95_seconds": parity.p95_seconds})
