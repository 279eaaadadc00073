"""An endpoint whose questions and answers pass a guard; probes, which are made with the admin key, do not: they test the model alone."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from fine_tune_pipeline.programs.serving.guard import Guard
from fine_tune_pipeline.programs.serving.ongoing import Ongoing
from fine_tune_pipeline.programs.serving.questions import Answer, Question
from fine_tune_pipeline.programs.serving.service import Service
from fine_tune_pipeline.spec.traffic import GuardSpec


class GuardedService(Service):
    """As `Service`, with `deployment.guard` between client and model."""

    def __init__(self, *, guard: GuardSpec, **parts: Any) -> None:
        super().__init__(**parts)
        self.guard = Guard(guard, scrubbing=self.writer.scrubbing)

    async def begin(self, question: Question, *, gone: Callable[[], Awaitable[bool]]) -> Ongoing:
        if question.probe:
            return await super().begin(question, gone=gone)
        asked, system = await self.guard.inward(question.asked, question.system)
        looks = self.guard.looks_at_answers
        # Pieces of a name are not known for what they are, so then an answer comes whole.
        checked = replace(question, asked=asked, system=system, streams=question.streams and not looks)
        ongoing = await super().begin(checked, gone=gone)
        if looks:
            ongoing.pass_through(self._outward)
        return ongoing

    async def _outward(self, answer: Answer) -> Answer:
        closed = self.shape.closed and self.shape.problem(answer.text) is None
        text = await self.guard.outward(answer.text, closed=closed)
        # The scores of the tokens would spell out what was masked.
        return answer if text == answer.text else replace(answer, text=text, scores=None)
