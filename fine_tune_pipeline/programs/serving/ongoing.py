"""A request that was taken: its pieces, its answer, and its row in the log."""

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING
from uuid import uuid4

from fine_tune_pipeline.artifacts.traffic import ServedRequest
from fine_tune_pipeline.programs.hosted.upstream import UpstreamBusy, UpstreamFailed, UpstreamRefused, UpstreamSlow
from fine_tune_pipeline.programs.passages import Found
from fine_tune_pipeline.programs.serving.listening import Part
from fine_tune_pipeline.programs.serving.model_thread import Draining, QueueFull, ThreadDied
from fine_tune_pipeline.programs.serving.questions import Answer, Question, TooManyTokens
from fine_tune_pipeline.programs.serving.running import ClientGone, Running, TookTooLong, Written
from fine_tune_pipeline.programs.serving.traffic_writer import Answered
from fine_tune_pipeline.programs.serving.versions import NoChampion, Target
from fine_tune_pipeline.programs.serving.wishes import UnsupportedWish

if TYPE_CHECKING:
    from fine_tune_pipeline.programs.serving.service import Service

PROBE = "probe"
"""Arm of requests made with the admin key: tests of ours, not production."""


STATUS_OF: dict[type[Exception], int] = {
    UpstreamRefused: 400,
    UnsupportedWish: 400,
    TooManyTokens: 413,
    QueueFull: 429,
    UpstreamBusy: 429,
    ClientGone: 499,
    UpstreamFailed: 502,
    Draining: 503,
    ThreadDied: 503,
    NoChampion: 503,
    TookTooLong: 504,
    UpstreamSlow: 504,
}
"""HTTP status of what can go wrong; everything else is 500."""


class Record:
    """One request on its way into the log."""

    def __init__(
        self,
        *,
        question: Question,
        target: Target,
        prompt_tokens: int,
        arrived: float,
        service: "Service",
        sources: Sequence[Found] | None,
    ) -> None:
        self.id = f"{question.name}-{uuid4().hex}"
        self.target = target
        self.prompt_tokens = prompt_tokens
        self.sources = sources
        self._question = question
        self._arrived = arrived
        self._service = service

    @property
    def arm(self) -> str:
        return PROBE if self._question.probe else self.target.arm

    def begun(self) -> None:
        """The first piece is there."""
        if self._question.streams:
            seconds = time.monotonic() - self._arrived
            self._service.metrics.first_piece(version=self.target.version, arm=self.arm, seconds=seconds)

    def answered(self, written: Written) -> None:
        """The request ended well."""
        self._service.note_answer(self.target)
        self.keep(status=200, text=written)

    def failed(self, error: Exception) -> None:
        """The request ended without an answer."""
        self.keep(status=STATUS_OF.get(type(error), 500), text=None)

    def keep(self, *, status: int, text: Written | None) -> None:
        valid = None if text is None else self._service.shape.problem(text.text) is None
        row = ServedRequest(
            id=self.id,
            ts=time.time(),
            use_case=self._service.use_case,
            version=self.target.version,
            arm=self.arm,
            prompt_scrubbed=None,
            answer_scrubbed=None,
            prompt_tokens=self.prompt_tokens,
            new_tokens=0 if text is None else text.tokens,
            latency_ms=round((time.monotonic() - self._arrived) * 1000, 3),
            status=status,
            valid=valid,
            confidence=None if text is None else text.logprob,
            sources=None if self.sources is None else json.dumps([found.entry.id for found in self.sources], ensure_ascii=False),
        )
        self._service.metrics.ended(
            version=row.version,
            arm=row.arm,
            status=status,
            seconds=row.latency_ms / 1000,
            prompt_tokens=row.prompt_tokens,
            new_tokens=row.new_tokens,
        )
        answer = "" if text is None else text.text
        closed = bool(valid and self._service.shape.closed) or not answer
        self._service.writer.put(Answered(row=row, asked=self._question.asked, answer=answer, user=self._question.user, closed=closed))


class Ongoing:
    """A request that was taken and queued."""

    def __init__(self, running: Running, record: Record) -> None:
        self._running = running
        self._record = record
        self._answer: Answer | None = None
        self._outward: Callable[[Answer], Awaitable[Answer]] | None = None
        self.id = record.id
        self.target = record.target
        self.sources = record.sources

    async def parts(self) -> AsyncGenerator[Part, None]:
        """See `Running.parts`. An answer that passes through something on its way out comes in one piece, and whatever that raises."""
        first = True
        async with aclosing(self._running.parts()) as parts:
            async for part in parts:
                if self._outward is None:
                    if first:
                        self._record.begun()
                    first = False
                    yield part
        self._answer = self._whole_answer()
        if self._outward is not None:
            self._answer = await self._outward(self._answer)
            self._record.begun()
            yield Part(self._answer.text, tuple(self._answer.scores or ()))

    def pass_through(self, outward: Callable[[Answer], Awaitable[Answer]]) -> None:
        """Let nothing of the answer out but what `outward` gives of it."""
        self._outward = outward

    async def whole(self) -> Answer:
        """The answer; raises what `parts` raises."""
        async for _ in self.parts():
            pass
        return self.answer

    @property
    def answer(self) -> Answer:
        """The answer, once `parts` was read to its end."""
        assert self._answer is not None
        return self._answer

    def _whole_answer(self) -> Answer:
        written = self._running.answer
        return Answer(
            id=self.id,
            target=self.target,
            text=written.text,
            prompt_tokens=self._record.prompt_tokens,
            new_tokens=written.tokens,
            finished=written.finished,
            sources=self.sources,
            scores=getattr(written, "scores", None),
        )
