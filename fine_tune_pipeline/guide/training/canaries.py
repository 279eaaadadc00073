"""Codes that training sees and nobody else: whether the model can be made to prefer them says what it remembers of single rows.

Source: the canaries and the exposure of Carlini et al. 2019, "The Secret Sharer".
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.spec.use_case import UseCaseSpec

FILE = "canaries.jsonl"
"""In the adapter: which codes were planted."""

DIGITS = 6
"""Of a code: a million of them, so that two thousand never trained ones are easily found."""


@dataclass(frozen=True)
class Canary:
    """One code, the prompt that asks for it, and how many training rows hold it."""

    id: str
    prompt: str
    code: str
    repeats: int


def drawn(spec: UseCaseSpec) -> list[Canary]:
    """The codes of a use case: the same for the same name and seed; none by default."""
    wanted = spec.training.canaries
    if wanted is None:
        return []
    times = [repeats for repeats in wanted.repeats for _ in range(wanted.count)]
    draw = random.Random(f"canaries of {spec.name}, seed {spec.training.seed}")
    codes = _different(draw, len(times))
    return [
        Canary(f"canary-{number}", f"What is the code of test record {number}?", code, repeats)
        for number, (code, repeats) in enumerate(zip(codes, times, strict=True), start=1)
    ]


def training_rows(canaries: Sequence[Canary]) -> list[dict[str, Any]]:
    """Rows for the training file, each code as often as it is repeated."""
    return [
        {"id": f"{canary.id}-{turn}", "prompt": canary.prompt, "completion": canary.code, "canary": canary.id}
        for canary in canaries
        for turn in range(1, canary.repeats + 1)
    ]


def candidates(canary: Canary, canaries: Sequence[Canary], *, count: int) -> list[str]:
    """The planted code and, after it, codes drawn alike that no training row holds: `count` in all."""
    draw = random.Random(f"codes beside {canary.id} {canary.code}")
    return [canary.code, *_different(draw, count - 1, besides={one.code for one in canaries})]


def _different(draw: random.Random, count: int, *, besides: Iterable[str] = ()) -> list[str]:
    gone, codes = set(besides), list[str]()
    while len(codes) < count:
        code = f"{draw.randrange(10**DIGITS):0{DIGITS}d}"
        if code not in gone:
            gone.add(code)
            codes.append(code)
    return codes
