"""The model thread: batches of one version, changes between batches, and a queue that never grows without bound."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from fine_tune_pipeline.programs.serving.model_thread import Draining, ModelThread, MorePrompts, QueueFull, ThreadDied

WAIT = 20.0


class Gate:
    """A model that answers when it is let; it notes who shared a batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int], int]] = []
        self.entered = threading.Event()
        self.open = threading.Event()

    def generate(self, name: str, prompts: Sequence[Sequence[int]], most: int) -> list[str]:
        self.entered.set()
        assert self.open.wait(WAIT)
        firsts = [prompt[0] for prompt in prompts]
        self.batches.append((name, firsts, most))
        if firsts == [13]:
            raise RuntimeError("out of memory")
        if firsts == [666]:
            raise KeyboardInterrupt
        return [f"{name}:{first}" for first in firsts]


@contextmanager
def running(gate: Gate, **limits: Any) -> Iterator[ModelThread[str]]:
    thread = ModelThread(gate.generate, **limits)
    thread.start()
    yield thread
    gate.open.set()
    thread.drain()
    assert thread.join(WAIT)


def busy(thread: ModelThread[str], gate: Gate) -> "Future[str]":
    """A first request that keeps the thread at work until the gate opens."""
    first = thread.submit("v1", [0], max_new_tokens=4)
    assert gate.entered.wait(WAIT)
    return first


def test_waiting_requests_of_one_version_share_a_batch_and_others_do_not():
    gate = Gate()
    with running(gate, batch_rows=3) as thread:
        first = busy(thread, gate)
        wishes = [("v1", 1, 4), ("v2", 2, 4), ("v1", 3, 4), ("v1", 4, 9), ("v1", 5, 4), ("v1", 6, 4)]
        answers = [thread.submit(name, [prompt], max_new_tokens=most) for name, prompt, most in wishes]
        gate.open.set()
        assert first.result(WAIT) == "v1:0"
        assert [answer.result(WAIT) for answer in answers] == [f"{name}:{prompt}" for name, prompt, _ in wishes]
    assert gate.batches == [("v1", [0], 4), ("v1", [1, 3, 5], 4), ("v2", [2], 4), ("v1", [4], 9), ("v1", [6], 4)]


def test_a_batch_takes_the_first_and_those_nearest_to_it_in_length():
    gate = Gate()
    with running(gate, batch_rows=2) as thread:
        first = busy(thread, gate)
        answers = [thread.submit("v1", [number] * length, max_new_tokens=4) for number, length in [(1, 2), (2, 9), (3, 8), (4, 2)]]
        gate.open.set()
        assert first.result(WAIT) == "v1:0"
        assert [answer.result(WAIT) for answer in answers] == ["v1:1", "v1:2", "v1:3", "v1:4"]
    assert gate.batches[1:] == [("v1", [1, 4], 4), ("v1", [2, 3], 4)]


def test_a_batch_has_no_more_tokens_than_it_may():
    gate = Gate()
    with running(gate, batch_tokens=24) as thread:
        first = busy(thread, gate)
        answers = [thread.submit("v1", [number] * length, max_new_tokens=4) for number, length in [(1, 8), (2, 8), (3, 8), (4, 90)]]
        gate.open.set()
        assert [answer.result(WAIT) for answer in (first, *answers)] == [f"v1:{number}" for number in range(5)]
    assert [firsts for _, firsts, _ in gate.batches] == [[0], [1, 2], [3], [4]]


class Joined:
    """A model that writes one step at a time, of which each waits for `step`; it notes who joined at which step."""

    def __init__(self, *, steps: int) -> None:
        self.joined: list[list[int]] = []
        self.entered = threading.Event()
        self.step = threading.Semaphore(0)
        self._steps = steps

    def generate(self, name: str, prompts: Sequence[Sequence[int]], most: int, more: MorePrompts) -> list[str]:
        self.entered.set()
        rows = list(prompts)
        for _ in range(self._steps):
            assert self.step.acquire(timeout=WAIT)
            new = list(more(len(rows)))
            self.joined.append([prompt[0] for prompt in new])
            rows += new
        return [f"{name}:{prompt[0]}" for prompt in rows]


def test_requests_of_the_same_version_join_a_running_batch():
    model = Joined(steps=3)
    thread = ModelThread(model.generate, joining=True, batch_rows=4)
    thread.start()
    answers = [thread.submit("v1", [0], max_new_tokens=4)]
    assert model.entered.wait(WAIT)
    answers += [thread.submit("v1", [number], max_new_tokens=4) for number in range(1, 6)]
    for _ in range(6):
        model.step.release()
    assert [answer.result(WAIT) for answer in answers] == [f"v1:{number}" for number in range(6)]
    assert model.joined == [[1, 2, 3], [], [], [], [], []]
    thread.drain()
    assert thread.join(WAIT)


@pytest.mark.parametrize("what", ["call", "version", "draining"])
def test_nobody_joins_before_a_change_of_the_model_or_another_version_that_came_first(what: str):
    model = Joined(steps=2)
    thread = ModelThread(model.generate, joining=True, batch_rows=4)
    thread.start()
    first = thread.submit("v1", [0], max_new_tokens=4)
    assert model.entered.wait(WAIT)
    call = thread.call(lambda: list(model.joined)) if what == "call" else None
    other = thread.submit("v2", [1], max_new_tokens=4) if what == "version" else None
    late = thread.submit("v1", [2], max_new_tokens=4)
    if what == "draining":
        thread.drain()
    for _ in range(6):
        model.step.release()
    assert first.result(WAIT) == "v1:0"
    assert model.joined[:2] == [[], []]
    if call is not None:
        assert call.result(WAIT) == [[], []]
    if other is not None:
        assert other.result(WAIT) == "v2:1"
    if what == "draining":
        with pytest.raises(Draining):
            late.result(WAIT)
    else:
        assert late.result(WAIT) == "v1:2"
    thread.drain()
    assert thread.join(WAIT)


def test_requests_of_different_kinds_share_no_batch_and_each_batch_is_told():
    gate, told = Gate(), []
    with running(gate, on_batch=lambda rows, seconds: told.append((rows, seconds >= 0))) as thread:
        first = busy(thread, gate)
        answers = [thread.submit("v1", [number], max_new_tokens=4, kind=number % 2) for number in range(1, 6)]
        gate.open.set()
        assert [answer.result(WAIT) for answer in (first, *answers)] == [f"v1:{number}" for number in range(6)]
    assert [firsts for _, firsts, _ in gate.batches] == [[0], [1, 3, 5], [2, 4]]
    assert told == [(1, True), (3, True), (2, True)]


def test_a_call_that_changes_nothing_for_others_comes_before_those_who_wait():
    gate, seen = Gate(), []
    with running(gate) as thread:
        busy(thread, gate)
        waiting = thread.submit("v1", [1], max_new_tokens=4)
        call = thread.call(lambda: seen.extend(gate.batches) or "loaded", first=True)
        gate.open.set()
        assert call.result(WAIT) == "loaded"
        assert waiting.result(WAIT) == "v1:1"
    assert seen == [("v1", [0], 4)]


def test_a_call_runs_between_batches_after_what_came_before_it_and_before_what_came_after():
    gate, seen = Gate(), []
    with running(gate) as thread:
        busy(thread, gate)
        before = thread.submit("v1", [1], max_new_tokens=4)
        call = thread.call(lambda: seen.extend(gate.batches) or "loaded")
        after = thread.submit("v1", [2], max_new_tokens=4)
        gate.open.set()
        assert call.result(WAIT) == "loaded"
        assert (before.result(WAIT), after.result(WAIT)) == ("v1:1", "v1:2")
    assert seen == [("v1", [0], 4), ("v1", [1], 4)]


def test_beyond_the_limit_requests_are_refused_and_cancelled_ones_make_room():
    gate = Gate()
    with running(gate, queue_limit=2) as thread:
        busy(thread, gate)
        left = [thread.submit("v1", [prompt], max_new_tokens=4) for prompt in (1, 2)]
        with pytest.raises(QueueFull, match="2 requests"):
            thread.submit("v1", [3], max_new_tokens=4)
        left[0].cancel()
        late = thread.submit("v1", [4], max_new_tokens=4)
        gate.open.set()
        assert late.result(WAIT) == "v1:4"
    assert gate.batches == [("v1", [0], 4), ("v1", [2, 4], 4)]


def test_draining_answers_the_running_batch_and_refuses_the_rest():
    gate = Gate()
    with running(gate) as thread:
        first = busy(thread, gate)
        waiting = thread.submit("v1", [1], max_new_tokens=4)
        thread.drain()
        with pytest.raises(Draining):
            thread.submit("v1", [2], max_new_tokens=4)
        with pytest.raises(Draining):
            waiting.result(WAIT)
        gate.open.set()
        assert first.result(WAIT) == "v1:0"


def test_a_failing_batch_fails_alone():
    gate = Gate()
    gate.open.set()
    with running(gate) as thread:
        with pytest.raises(RuntimeError, match="out of memory"):
            thread.submit("v1", [13], max_new_tokens=4).result(WAIT)
        assert thread.submit("v1", [1], max_new_tokens=4).result(WAIT) == "v1:1"


def test_a_failing_call_tells_its_caller_and_the_thread_goes_on():
    gate = Gate()
    gate.open.set()
    with running(gate) as thread:
        with pytest.raises(ValueError, match="bad adapter"):
            thread.call(lambda: (_ for _ in ()).throw(ValueError("bad adapter"))).result(WAIT)
        assert thread.submit("v1", [1], max_new_tokens=4).result(WAIT) == "v1:1"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_thread_dies_nobody_waits_for_ever():
    gate = Gate()
    thread = ModelThread(gate.generate)
    thread.start()
    running_one = thread.submit("v1", [666], max_new_tokens=4)
    assert gate.entered.wait(WAIT)
    waiting = thread.submit("v1", [1], max_new_tokens=4)
    gate.open.set()
    for answer in (running_one, waiting):
        with pytest.raises(ThreadDied):
            answer.result(WAIT)
    assert thread.join(WAIT)
    with pytest.raises(ThreadDied):
        thread.submit("v1", [2], max_new_tokens=4)
