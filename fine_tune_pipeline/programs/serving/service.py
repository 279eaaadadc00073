"""From a question to an answer: who answers, what is too much, how long to wait, what the log keeps. No HTTP and no torch here."""

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence, Sized
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal
from uuid import uuid4

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.passages import Found
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.answer_shape import AnswerShape
from fine_tune_pipeline.programs.serving.contract import Health
from fine_tune_pipeline.programs.serving.indexes import Indexes, IndexGone
from fine_tune_pipeline.programs.serving.listening import Listener
from fine_tune_pipeline.programs.serving.metrics import Metrics
from fine_tune_pipeline.programs.serving.model_thread import Draining, ModelThread, QueueFull
from fine_tune_pipeline.programs.serving.ongoing import Ongoing, Record
from fine_tune_pipeline.programs.serving.questions import Answer, Question, TooManyTokens, TooManyWanted
from fine_tune_pipeline.programs.serving.readiness import Readiness
from fine_tune_pipeline.programs.serving.registry_watch import RegistryWatch
from fine_tune_pipeline.programs.serving.running import EXPECTED, Running, Written
from fine_tune_pipeline.programs.serving.traffic_writer import TrafficWriter
from fine_tune_pipeline.programs.serving.versions import NoChampion, Target, Versions
from fine_tune_pipeline.programs.serving.wishes import Ability, Wanted


@dataclass(frozen=True)
class Limits:
    """What the endpoint takes at most."""

    waiting: int = 256
    batch_rows: int = 32
    prompt_tokens: int = 4096
    body_bytes: int = 256 * 1024
    body_seconds: float = 30.0
    request_seconds: float = 120.0
    drain_seconds: float = 30.0
    slow_reader_seconds: float = 20.0


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
        ability: Ability = "remote",
        metrics: Metrics | None = None,
        engine: str = "",
    ) -> None:
        """
        Args:
            context_tokens: what the model can look back on; prompt and answer must fit.
            encode: (what is asked, system message) -> the prompt, as long as it has tokens; called in one thread only.
            conversations: whether the model was trained on several turns.
            ability: what answers are; all but `remote` models understand `Wanted`.
            metrics: those that the model thread counts in, too.
            engine: what computes the answers, by name and version.
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
        self.ability = ability
        self.metrics = metrics or Metrics()
        self._engine = engine
        self._context_tokens = context_tokens
        self._encode = encode
        self._thread = thread
        self._draining = False
        self._answered = 0
        self._started = time.monotonic()
        self.readiness = Readiness(self._one_token)
        self.metrics.watch(self.health)

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def thread_alive(self) -> bool:
        return self._thread.alive

    def note_answer(self, target: Target) -> None:
        """A version has answered: if it is the champion, it need not be asked whether it can."""
        self._answered += 1
        if target.arm == "champion":
            self.readiness.seen()

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
        ongoing = await self.begin(question, gone=gone)
        return await ongoing.whole()

    async def begin(self, question: Question, *, gone: Callable[[], Awaitable[bool]]) -> Ongoing:
        """Take one question and queue it; raises what `answer` raises before its batch."""
        arrived = time.monotonic()
        if self._draining:
            raise Draining("the endpoint is being stopped")
        target, sources = await self._with_sources(question)
        context = [found.entry.passage for found in sources or ()]
        prompt = self._encode(replace(question.asked, context=context), question.system)
        most = self._most(question, target)
        record = Record(question=question, target=target, prompt_tokens=len(prompt), arrived=arrived, service=self, sources=sources)
        listener = Listener(streams=question.streams)
        try:
            self._refuse_too_long(len(prompt), most, looked_up=sum(found.entry.tokens for found in sources or ()))
            queued = self._queued(question, target, prompt, most, listener=listener)
        except EXPECTED as error:
            record.failed(error)
            raise
        running = Running(queued, listener=listener, seconds=self.limits.request_seconds, gone=gone, kept=record)
        return Ongoing(running, record)

    def _queued(self, question: Question, target: Target, prompt: Sized, most: int, *, listener: Listener) -> "Future[Written]":
        if self.ability == "remote":
            return self._thread.submit(target.name, prompt, max_new_tokens=most)
        assert isinstance(prompt, Sequence)
        wanted = Wanted(prompt, most, question.wish, listener)
        # Each row has a limit of its own, so the batch is not cut by it.
        return self._thread.submit(target.name, wanted, max_new_tokens=target.max_new_tokens, kind=question.wish.ordinary)

    def fingerprint(self, target: Target) -> str:
        """Stands for all that decides an answer beside the request: base, version, and what computes them."""
        content = f"{self.versions.table.base_sha256} {target.sha256} {self._engine}"
        return f"fp_{hashlib.sha256(content.encode('utf-8')).hexdigest()[:16]}"

    async def not_ready(self) -> str | None:
        """Why nobody should be sent here; None if the champion answers. What can be seen is looked at each time."""
        if self._draining:
            return "the endpoint is being stopped"
        try:
            self.versions.target(None)
        except NoChampion as error:
            return str(error)
        return await self.readiness.problem()

    async def _one_token(self) -> None:
        """Have the champion write one token, past the log; raises what is wrong."""
        target = self.versions.target(None)
        prompt = self._encode(Asked("Hello"), "")
        await asyncio.wrap_future(self._thread.submit(target.name, prompt, max_new_tokens=1))

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
