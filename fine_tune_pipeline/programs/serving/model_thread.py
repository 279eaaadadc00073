"""The one thread that touches the model: it takes requests of one version from the queue, as many as fit, and answers them together.

What changes the model (loading, unloading) waits in the same queue and runs between two batches, so no answer is made half by one
version and half by another. Nothing of torch here: what generates is given from outside.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence, Sized
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

AnswerT = TypeVar("AnswerT")
ResultT = TypeVar("ResultT")

Generate = Callable[[str, Sequence[Any], int], Sequence[AnswerT | Exception | Future[AnswerT]]]
"""(model name, prompts, most new tokens) -> one answer a prompt, in their order; an exception is the answer of its own request only. What
computes elsewhere gives futures, and the thread goes on at once."""

MorePrompts = Callable[[int], Sequence[Any]]
"""(rows that are being written) -> prompts that join them now, for the same model and as many new tokens."""

GenerateJoined = Callable[[str, Sequence[Any], int, MorePrompts], Sequence[AnswerT | Exception]]
"""The same of a model that takes more prompts while it writes; their answers come after the others, in the order in which they came."""

GATHER_SECONDS = 0.02
GATHER_SHARE = 0.05
"""Of the last batch's time, at most `GATHER_SECONDS`: so long a batch waits for as many requests as the last one had. Clients that ask
again at once come a few milliseconds after their answer, and would find the thread at work on the first of them alone."""

JOIN_SHARE = 4
JOIN_SECONDS = 0.25
"""Requests join a running batch when they are at least a fourth of it, or when the first has waited so long: reading one prompt takes about
as long as one step of the whole batch."""

JOIN_UNTIL_SECONDS = 60.0
"""So long a batch may be joined; then it comes to its end, and what it holds is let go."""

NEAR_BATCHES = 4
"""Batches that a queue's head may hold, out of which requests of about one length are taken."""

STOPPING = "the endpoint is being stopped"
DIED = "the model thread has ended; the server's log says why"

FAILURES = (RuntimeError, ValueError, LookupError, OSError)
"""What a batch or a call may fail with and the thread goes on; anything else ends it, and the supervisor starts the server again."""


class QueueFull(Exception):
    """More requests wait than may."""


class Draining(Exception):
    """The endpoint is being stopped."""


class ThreadDied(Exception):
    """The model thread ended by an error; the server must be started again."""


@dataclass(frozen=True)
class _Job(Generic[AnswerT]):
    """A request: what it wants (`batch` decides what may share its batch) and where its answer goes."""

    name: str
    prompt: Sized
    max_new_tokens: int
    kind: Hashable
    since: float = field(default_factory=time.monotonic)
    answer: "Future[AnswerT]" = field(default_factory=Future)

    @property
    def batch(self) -> tuple[str, int, Hashable]:
        return self.name, self.max_new_tokens, self.kind


@dataclass(frozen=True)
class _Call:
    """Work on the model itself, done between two batches."""

    work: Callable[[], Any]
    result: "Future[Any]" = field(default_factory=Future)


class ModelThread(Generic[AnswerT]):
    """Answers requests in batches of one version."""

    def __init__(
        self,
        generate: Generate[AnswerT] | GenerateJoined[AnswerT],
        *,
        joining: bool = False,
        batch_rows: int = 16,
        batch_tokens: int = 32768,
        queue_limit: int = 256,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        """
        Args:
            generate: called in this thread only; `FAILURES` fail the batch, anything else ends the thread.
            joining: whether `generate` takes more prompts while it writes.
            batch_rows: most requests answered together.
            batch_tokens: most tokens of a batch, padding and answers included; a request that alone has more is a batch of its own.
            queue_limit: most requests that wait.
            on_batch: told of each batch that was answered: its rows, and the seconds that it took.
        """
        self._generate: Callable[..., Sequence[AnswerT | Exception | Future[AnswerT]]] = generate
        self._joining = joining
        self._batch_rows = batch_rows
        self._batch_tokens = batch_tokens
        self._queue_limit = queue_limit
        self._on_batch = on_batch
        self._last_rows = 0
        self._last_seconds = 0.0
        self._queue: deque[_Job[AnswerT] | _Call] = deque()
        self._changed = threading.Condition()
        self._draining = False
        self._running: Sequence[Future[Any]] = ()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests that wait for a batch."""
        with self._changed:
            return self._waiting()

    def submit(self, name: str, prompt: Sized, *, max_new_tokens: int, kind: Hashable = None) -> "Future[AnswerT]":
        """Queue a request; cancelling the future takes it out, unless its batch runs already.

        Args:
            prompt: what `generate` understands: token ids, or what is as long as it has tokens.
            kind: requests share a batch only with those of the same kind.

        Raises:
            QueueFull, Draining, ThreadDied: it was not queued.
        """
        job: _Job[AnswerT] = _Job(name=name, prompt=prompt, max_new_tokens=max_new_tokens, kind=kind)
        with self._changed:
            self._refuse_if_closed()
            if self._waiting() >= self._queue_limit:
                raise QueueFull(f"{self._queue_limit} requests wait already")
            self._queue.append(job)
            self._changed.notify()
        return job.answer

    def call(self, work: Callable[[], ResultT], *, first: bool = False) -> "Future[ResultT]":
        """Run `work` in this thread, after the requests that came before it and before those that come after.

        Args:
            first: run it before the requests that wait, too: for what changes nothing for them.
        """
        item = _Call(work=work)
        with self._changed:
            self._refuse_if_closed()
            if first:
                self._queue.appendleft(item)
            else:
                self._queue.append(item)
            self._changed.notify()
        return item.result

    def drain(self) -> None:
        """Refuse what waits and what comes; the running batch is answered, then the thread ends."""
        with self._changed:
            self._draining = True
            self._fail_waiting(Draining(STOPPING))
            self._changed.notify()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end after `drain`; says whether it came."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _waiting(self) -> int:
        return sum(isinstance(item, _Job) and not item.answer.cancelled() for item in self._queue)

    def _refuse_if_closed(self) -> None:
        if self._draining:
            raise Draining(STOPPING)
        if not self._thread.is_alive():
            raise ThreadDied(DIED)

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                if isinstance(batch, _Call):
                    self._do(batch)
                else:
                    self._answer(batch)
        finally:
            error = Draining(STOPPING) if self._draining else ThreadDied(DIED)
            for future in self._running:
                if not future.done():
                    future.set_exception(error)
            with self._changed:
                self._fail_waiting(error)

    def _next(self) -> "list[_Job[AnswerT]] | _Call | None":
        """The next batch or call; None when nothing more will come."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._draining)
                self._gather()
                if not self._queue:
                    return None
                if isinstance(self._queue[0], _Call):
                    return self._queue.popleft()  # type: ignore[return-value]
                batch = self._take_batch()
                if batch:
                    return batch

    def _gather(self) -> None:
        """Wait a moment for those who were answered together and ask again; one client alone never waits."""
        wanted = min(self._last_rows, self._batch_rows)
        if wanted > 1:
            seconds, self._last_rows = min(GATHER_SECONDS, GATHER_SHARE * self._last_seconds), 0
            self._changed.wait_for(lambda: self._draining or self._calls() or self._waiting() >= wanted, timeout=seconds)

    def _calls(self) -> bool:
        return any(isinstance(item, _Call) for item in self._queue)

    def _take_batch(self, *, beside: int = 0, like: "_Job[AnswerT] | None" = None) -> "list[_Job[AnswerT]]":
        """The first request and those of its kind that are nearest to it in length, wherever they stand before the next call: the batch is
        as wide as its longest prompt. The order of the others stays, so each comes first at last.

        Args:
            beside: rows of the batch that they join.
            like: only if the first may share a batch with this one; who came earlier is never overtaken for ever.
        """
        before_call: list[_Job[AnswerT]] = []
        while self._queue and isinstance(self._queue[0], _Job):
            before_call.append(self._queue.popleft())  # type: ignore[arg-type]
        open_jobs = [job for job in before_call if not job.answer.cancelled()]
        joins = like is None or bool(open_jobs and open_jobs[0].batch == like.batch)
        alike = [job for job in open_jobs if job.batch == open_jobs[0].batch][: NEAR_BATCHES * self._batch_rows]
        nearest = sorted(alike, key=lambda job: abs(len(job.prompt) - len(alike[0].prompt)))
        taken = set(map(id, self._fitting(nearest, beside=beside))) if joins else set()
        batch = [job for job in alike if id(job) in taken]
        self._queue.extendleft(reversed([job for job in open_jobs if id(job) not in taken]))
        # From here on a request can no longer be cancelled; one that was in the meantime is left out.
        return [job for job in batch if job.answer.set_running_or_notify_cancel()]

    def _fitting(self, jobs: "Sequence[_Job[AnswerT]]", *, beside: int) -> "Sequence[_Job[AnswerT]]":
        """The first of these that a batch has room for."""
        widest = 0
        for count, job in enumerate(jobs[: self._batch_rows - beside]):
            widest = max(widest, len(job.prompt) + job.max_new_tokens)
            if beside + count and (beside + count + 1) * widest > self._batch_tokens:
                return jobs[:count]
        return jobs[: self._batch_rows - beside]

    def _answer(self, batch: "list[_Job[AnswerT]]") -> None:
        first, start = batch[0], time.monotonic()
        self._running = [job.answer for job in batch]

        def more(open_rows: int) -> list[Sized]:
            new = self._newcomers(first, open_rows, until=start + JOIN_UNTIL_SECONDS)
            batch.extend(new)
            self._running = [job.answer for job in batch]
            return [job.prompt for job in new]

        prompts = [job.prompt for job in batch]
        try:
            joined = (more,) if self._joining else ()
            answers = self._generate(first.name, prompts, first.max_new_tokens, *joined)
        except FAILURES as error:
            for job in batch:
                job.answer.set_exception(error)
            return
        # One that is computed elsewhere is still coming, whatever becomes of this thread.
        self._running = ()
        self._note(len(batch), time.monotonic() - start)
        for job, answer in zip(batch, answers, strict=True):
            settle(job.answer, answer)

    def _newcomers(self, like: "_Job[AnswerT]", open_rows: int, *, until: float) -> "list[_Job[AnswerT]]":
        """Requests that join the running batch now: none while a call waits, so that the batch ends and the model can be changed."""
        now, room = time.monotonic(), self._batch_rows - open_rows
        with self._changed:
            if self._draining or now > until or room < 1 or self._calls():
                return []
            waiting = [item for item in self._queue if isinstance(item, _Job) and not item.answer.cancelled()]
            few = len(waiting) < min(room, self._batch_rows // JOIN_SHARE)
            if not waiting or (open_rows and few and now - waiting[0].since < JOIN_SECONDS):
                return []
            return self._take_batch(beside=open_rows, like=like)

    def _note(self, rows: int, seconds: float) -> None:
        self._last_rows, self._last_seconds = rows, seconds
        if self._on_batch is not None:
            self._on_batch(rows, seconds)

    def _do(self, call: _Call) -> None:
        if not call.result.set_running_or_notify_cancel():
            return
        self._running = [call.result]
        try:
            done = call.work()
        except FAILURES as error:
            call.result.set_exception(error)
            return
        self._running = ()
        settle(call.result, done)

    def _fail_waiting(self, error: Exception) -> None:
        while self._queue:
            item = self._queue.popleft()
            future: Future[Any] = item.answer if isinstance(item, _Job) else item.result
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


def settle(promised: "Future[Any]", outcome: Any) -> None:
    """Keep a promise: by an answer, an error, or a future that passes on what it gets."""
    if isinstance(outcome, Future):
        outcome.add_done_callback(lambda done: settle(promised, done.exception() or done.result()))
    elif isinstance(outcome, BaseException):
        promised.set_exception(outcome)
    else:
        promised.set_result(outcome)
