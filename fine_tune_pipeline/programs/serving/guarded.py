"""An endpoint whose questions and answers pass a guard; probes, which are made with the admin key, do not: they test the model alone."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from fine_tune_pipeline.programs.serving.guard import Guard
from fine_tune_pipeline.programs.serving.service import Answer, Question, Service
from fine_tune_pipeline.spec.traffic import GuardSpec


class GuardedService(Service):
    """As `Service`, with `deployment.guard` between client and model."""

    def __init__(self, *, guard: GuardSpec, **parts: Any) -> None:
        super().__init__(**parts)
        self.guard = Guard(guard, scrubbing=self.writer.scrubbing)

    async def answer(self, question: Question, *, gone: Callable[[], Awaitable[bool]]) -> Answer:
        if question.probe:
            return await super().answer(question, gone=gone)
        asked, system = await self.guard.inward(question.asked, question.system)
        answer = await super().answer(replace(question, asked=asked, system=system), gone=gone)
        closed = self.shape.closed and self.shape.problem(answer.text) is None
        return replace(answer, text=await self.guard.outward(answer.text, closed=closed))
