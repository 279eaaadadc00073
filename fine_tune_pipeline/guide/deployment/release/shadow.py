"""The shadow gate: recent prompts of the traffic log, freed of personal data, answered by the new version beside the champion.

Nobody gets these answers. Both versions are asked the same, one after the other, so a busy machine is as slow for one as for the other.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.manifest import Check
from fine_tune_pipeline.artifacts.traffic import Logged, ServedRequest
from fine_tune_pipeline.guide.deployment.release.comparison import ALPHA, Signal, signals
from fine_tune_pipeline.programs.serving.answer_shape import AnswerShape
from fine_tune_pipeline.resources.endpoint_client import EndpointError, ServedAnswer

SHOWN = 5

Answers = Callable[..., ServedAnswer]
"""As `EndpointClient.answer`, with the model's name as `model`."""


@dataclass(frozen=True)
class Replayed:
    """The answers of one version to the replayed prompts, in their order; the text is None where an error came instead."""

    texts: tuple[str | None, ...]
    arm: tuple[Logged, ...]


@dataclass(frozen=True)
class Shadow:
    """What came of the replay."""

    prompts: int
    agree: int
    signals: tuple[Signal, ...]
    differences: tuple[dict[str, str], ...]

    @property
    def worse(self) -> list[Signal]:
        """Kinds of trouble that the new version has more of."""
        return [signal for signal in self.signals if signal.adjusted < ALPHA]


def asked_in(logged: Logged) -> Asked:
    """What a logged request asks, without personal data."""
    request = logged.request
    assert request.prompt_scrubbed is not None
    return Asked.of({"prompt": request.prompt_scrubbed, **json.loads(request.before_scrubbed or "{}")})


def replay(
    window: Sequence[Logged], answer: Answers, *, version: str, champion: str, shape: AnswerShape, limit_ms: float | None
) -> Shadow | None:
    """Have both versions answer what was asked last; None when there is nothing to replay.

    Args:
        window: of the log; requests whose prompt could not be kept are left out.
        answer: what it raises but an error of the endpoint goes through.
        version, champion: names of the models.
        shape: what a valid answer is.
    """
    asked = [asked_in(logged) for logged in window if logged.request.status == 200 and logged.request.prompt_scrubbed is not None]
    if not asked:
        return None
    pairs = [(_ask(answer, one, model=version, shape=shape), _ask(answer, one, model=champion, shape=shape)) for one in asked]
    new, old = (Replayed(tuple(text for text, _ in side), tuple(row for _, row in side)) for side in zip(*pairs, strict=True))
    both = zip(asked, new.texts, old.texts, strict=True)
    differ = [
        {"prompt": one.prompt, "new version": text or "(error)", "champion": before or "(error)"}
        for one, text, before in both
        if text != before
    ]
    return Shadow(
        prompts=len(asked),
        agree=len(asked) - len(differ),
        signals=tuple(signals(new.arm, old.arm, limit_ms=limit_ms)),
        differences=tuple(differ[:SHOWN]),
    )


def shadow_check(shadow: Shadow | None, *, skipped: str) -> Check:
    """Blocking: a version that fails on what people ask is given to nobody. How often both agree is shown and not judged.

    Args:
        skipped: why there was no replay.
    """
    if shadow is None:
        return Check(name="shadow", passed=True, description=skipped)
    said = f"{shadow.prompts} recent prompts were answered by both; {shadow.agree} answers are the same"
    worse = "; ".join(map(str, shadow.worse))
    metadata: dict[str, Any] = {"prompts": shadow.prompts, "agree": shadow.agree, "signals": [signal.row() for signal in shadow.signals]}
    metadata["differences"] = [dict(row) for row in shadow.differences] or "none"
    told = f"{said}; the new version is worse ({worse}): look at `differences`" if worse else f"{said}; none of the signals is worse"
    return Check(name="shadow", passed=not worse, description=told, metadata=metadata)


def _ask(answer: Answers, asked: Asked, *, model: str, shape: AnswerShape) -> tuple[str | None, Logged]:
    """The text, and the request as the log would have it, timed here."""
    started = time.monotonic()
    try:
        text, status = answer(asked, model=model, probe=True).text, 200
    except EndpointError as error:
        text, status = None, error.status
    row = ServedRequest(
        id="", ts=0.0, use_case="", version=model, arm="shadow", prompt_scrubbed=None, answer_scrubbed=None, prompt_tokens=0, new_tokens=0,
        latency_ms=1000 * (time.monotonic() - started), status=status, valid=None if text is None else shape.problem(text) is None,
    )  # fmt: skip
    return text, Logged(row)
