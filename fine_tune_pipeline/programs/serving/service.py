"""From a question to an answer: who answers, what is too much, how long to wait, what the log keeps. No HTTP and no torch here."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, Protocol
from uuid import uuid4

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.traffic import ServedRequest
from fine_tune_pipeline.programs.hosted.upstream import UpstreamBusy, UpstreamFailed, UpstreamRefused, UpstreamSlow
from fine_tune_pipeline.programs.passages import Found
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.answer_shape import AnswerShape
from fine_tune_pipeline.programs.serving.contract import Health
from fine_tune_pipeline.programs.serving.indexes import Indexes, IndexGone
from fine_tune_pipeline.programs.serving.model_thread import Draining, ModelThread, QueueFull, ThreadDied
from fine_tune_pipeline.programs.serving.registry_watch import RegistryWatch
from fine_tune_pipeline.programs.serving.traffic_writer import Answered, TrafficWriter
from fine_tune_pipeline.programs.serving.versions import NoChampion, Target, Versions

POLL_SECONDS = 0.2
"""How often a waiting request looks whether its client is still there."""

PROBE = "probe"
"""Arm of requests made with the admin key: tests of ours, not production."""


class TooManyTokens(ValueError):
    """The prompt is longer than the endpoint takes."""


class TooManyWanted(ValueError):
    """The request wants a longer answer than the model was evaluated with."""


class TookTooLong(Exception):
    """No answer within the time of one request; it was taken out of the queue if it still waited there."""


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Written(Protocol):
    """What a model wrote. `logprob` is the mean log-probability of its tokens, None where a provider does not give it."""

    @property
    def text(self) -> str: ...

    @property
    def tokens(self) -> int: ...

    @property
    def logprob(self) -> float | None: ...

    @property
    def finished(self) -> bool: ...


@dataclass(frozen=True)
class Limits:
    """What the endpoint takes at most."""

    waiting: int = 256
    batch_rows: int = 16
    prompt_tokens: int = 4096
    body_bytes: int = 256 * 1024
    request_seconds: float = 120.0
    drain_seconds: float = 30.0


@dataclass(frozen=True)
class Question:
    """One request. `system` is a system message, empty if there is none; `probe` marks our own tests."""

    asked: Asked
    model: str | None = None
    max_tokens: int | None = None
    system: str = ""
    user: str | None = None
    probe: bool = False


@dataclass(frozen=True)
class Answer:
    """What was answered, by whom, from what, and what it cost. `sources` are in the order of the prompt, the nearest last; None where the
    version looks nothing up."""

    id: str
    target: Target
    text: str
    prompt_tokens: int
    new_tokens: int
    finished: bool
    sources: Sequence[Found] | None = None


class Service:
    """The endpoint of one use case."""

    def __init__(
        self,
        *,
        use_case: str,
        format: PromptFormat,
        context_tokens: int,
        encode: Callable[[Asked, str], Sized],
        versions: Versions,
        indexes: Indexes,
        thread: "ModelThread[Written]",
        writer: TrafficWriter,
        shape: AnswerShape,
        limits: Limits,
        conversations: bool = False,
    ) -> None:
        """
        Args:
            context_tokens: what the model can look back on; prompt and answer must fit.
            encode: (what is asked, system message) -> the prompt, as long as it has tokens; called in one thread only.
            conversations: whether the model was trained on several turns.
        """
        self.use_case = use_case
        self.format = format
        self.versions = versions
        self._indexes = indexes
        self.writer = writer
        self.shape = shape
        self.limits = limits
        self.conversations = conversations
        self.registry: RegistryWatch | None = None
        self._context_tokens = context_tokens
        self._encode = encode
        self._thread = thread
        self._draining = False
        self._answered = 0
        self._started = time.monotonic()

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def thread_alive(self) -> bool:
        return self._thread.alive

    def drain(self) -> None:
        """Refuse what comes from now on; the running batch is still answered."""
        self._draining = True
        self._thread.drain()

    def health(self) -> Health:
        """What a load balancer, the supervisor and people want to know."""
        problems = self._problems()
        status: Literal["ready", "degraded", "draining", "failed"] = "degraded" if problems else "ready"
        if self._draining:
            status = "draining"
        elif not self._thread.alive or self._champion_problem() is not None:
            status = "failed"
        return Health(
            status=status,
            problems=tuple(problems),
            use_case=self.use_case,
            pid=os.getpid(),
            supervisor_pid=os.getppid(),
            uptime_seconds=round(time.monotonic() - self._started, 3),
            waiting=self._thread.waiting,
            answered_total=self._answered,
            log_dropped_total=self.writer.dropped,
            registry_stale_seconds=None if self.registry is None else self.registry.stale_seconds,
            table=self.versions.table,
        )

    async def answer(self, question: Question, *, gone: Callable[[], Awaitable[bool]]) -> Answer:
        """Answer one question.

        Args:
            gone: whether the client has left.

        Raises:
            NotServed, NoChampion, TooManyWanted, TooManyTokens, QueueFull, Draining, ThreadDied, TookTooLong, ClientGone: see there.
            ReservedText: the text can't be put into the chat format.
            RuntimeError, ValueError: the model failed on this batch.
        """
        arrived = time.monotonic()
        if self._draining:
            raise Draining("the endpoint is being stopped")
        target, sources = await self._with_sources(question)
        context = [found.entry.passage for found in sources or ()]
        prompt = self._encode(replace(question.asked, context=context), question.system)
        most = self._most(question, target)
        record = _Record(question=question, target=target, prompt_tokens=len(prompt), arrived=arrived, service=self, sources=sources)
        try:
            self._refuse_too_long(len(prompt), most, looked_up=sum(found.entry.tokens for found in sources or ()))
            text = await self._wait(target, prompt, most, gone=gone)
        except (QueueFull, Draining, ThreadDied, TookTooLong, ClientGone, RuntimeError, ValueError) as error:
            record.keep(status=STATUS_OF.get(type(error), 500), text=None)
            raise
        self._answered += 1
        record.keep(status=200, text=text)
        return Answer(
            id=record.id,
            target=target,
            text=text.text,
            prompt_tokens=len(prompt),
            new_tokens=text.tokens,
            finished=text.finished,
            sources=sources,
        )

    async def _with_sources(self, question: Question) -> tuple[Target, list[Found] | None]:
        """Who answers, and what was found for it; once more should it be replaced meanwhile, since each version has its own index."""
        # A probe of ours never meets a canary by chance; one who gives no name is somebody else with each request.
        user = None if question.probe else question.user or uuid4().hex
        while True:
            target = self.versions.target(question.model, user=user)
            if target.retrieval is None:
                return target, None
            if self._indexes.waiting >= self.limits.waiting:
                raise QueueFull(f"{self._indexes.waiting} questions wait for their passages, at most {self.limits.waiting} may")
            with suppress(IndexGone):
                sources = await self._indexes.look_up(question.asked.text, target.retrieval)
                if self.versions.serves(target):
                    return target, sources

    async def _wait(self, target: Target, prompt: Sized, most: int, *, gone: Callable[[], Awaitable[bool]]) -> Written:
        queued = self._thread.submit(target.name, prompt, max_new_tokens=most)
        waiting = asyncio.wrap_future(queued)
        deadline = time.monotonic() + self.limits.request_seconds
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=POLL_SECONDS)
            if waiting.done():
                break
            late = time.monotonic() > deadline
            if late or await gone():
                # Taken out of the queue; if its batch runs already, the answer is made and thrown away.
                waiting.cancel()
                raise (
                    TookTooLong(f"no answer within {self.limits.request_seconds:g} seconds") if late else ClientGone("the client has left")
                )
        return waiting.result()

    def _most(self, question: Question, target: Target) -> int:
        """What the answer may take: by default as much as in the version's evaluation, at most that."""
        if question.max_tokens is not None and question.max_tokens > target.max_new_tokens:
            raise TooManyWanted(f"max_tokens: got {question.max_tokens}, want at most {target.max_new_tokens} of {target.name}")
        return question.max_tokens or target.max_new_tokens

    def _refuse_too_long(self, prompt_tokens: int, most: int, *, looked_up: int) -> None:
        """What was looked up comes on top of what one may ask."""
        limit = min(self.limits.prompt_tokens + looked_up, self._context_tokens - most)
        if prompt_tokens > limit:
            raise TooManyTokens(
                f"the prompt has {prompt_tokens} tokens, at most {limit} are taken with an answer of up to {most}; shorten it"
            )

    def _champion_problem(self) -> str | None:
        """A champion that is named but can't answer; having none yet is no failure."""
        champion = self.versions.table.champion
        if champion is None or champion.state == "loaded":
            return None
        return f"champion {champion.name} is {champion.state}: {champion.reason}"

    def _problems(self) -> list[str]:
        dead = None if self._thread.alive or self._draining else "the model thread has ended"
        registry = None if self.registry is None else self.registry.problem
        return [problem for problem in (dead, self._champion_problem(), self.writer.problem, registry) if problem is not None]


STATUS_OF: dict[type[Exception], int] = {
    UpstreamRefused: 400,
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


class _Record:
    """One request on its way into the log."""

    def __init__(
        self,
        *,
        question: Question,
        target: Target,
        prompt_tokens: int,
        arrived: float,
        service: Service,
        sources: Sequence[Found] | None,
    ) -> None:
        self.id = f"chatcmpl-{uuid4().hex}"
        self._question = question
        self._target = target
        self._prompt_tokens = prompt_tokens
        self._arrived = arrived
        self._service = service
        self._sources = sources

    def keep(self, *, status: int, text: Written | None) -> None:
        valid = None if text is None else self._service.shape.problem(text.text) is None
        row = ServedRequest(
            id=self.id,
            ts=time.time(),
            use_case=self._service.use_case,
            version=self._target.version,
            arm=PROBE if self._question.probe else self._target.arm,
            prompt_scrubbed=None,
            answer_scrubbed=None,
            prompt_tokens=self._prompt_tokens,
            new_tokens=0 if text is None else text.tokens,
            latency_ms=round((time.monotonic() - self._arrived) * 1000, 3),
            status=status,
            valid=valid,
            confidence=None if text is None else text.logprob,
            sources=None if self._sources is None else json.dumps([found.entry.id for found in self._sources], ensure_ascii=False),
        )
        answer = "" if text is None else text.text
        closed = bool(valid and self._service.shape.closed) or not answer
        self._service.writer.put(Answered(row=row, asked=self._question.asked, answer=answer, user=self._question.user, closed=closed))
