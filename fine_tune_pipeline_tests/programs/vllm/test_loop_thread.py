"""Work in an event loop beside other threads, and the end of a request whose client leaves."""

import asyncio
import threading
from concurrent.futures import Future

import pytest

from fine_tune_pipeline.programs.serving.listening import Listener
from fine_tune_pipeline.programs.vllm.loop_thread import LoopThread, canceller
from fine_tune_pipeline_tests.programs.vllm.fake_vllm import WAIT


async def nothing() -> None:
    """Nothing."""


async def listener(*, left: bool = False) -> Listener:
    made = Listener(streams=True)
    if left:
        made.leave()
    return made


def test_what_is_submitted_runs_at_once_and_before_the_end_all_of_it_has_ended():
    loop, open, order = LoopThread("test"), threading.Event(), []

    async def waiting() -> str:
        await asyncio.get_running_loop().run_in_executor(None, open.wait, WAIT)
        order.append("first")
        return "first"

    async def quick() -> str:
        order.append("second")
        open.set()
        return "second"

    async def last() -> None:
        order.append("last")

    first, second = loop.submit(waiting()), loop.submit(quick())
    loop.close(last())
    assert (first.result(), second.result(), order) == ("first", "second", ["second", "first", "last"])


def test_an_error_is_the_results_and_disturbs_nobody():
    loop = LoopThread("test")

    async def failing() -> None:
        raise ValueError("wrong")

    failed = loop.submit(failing())
    assert loop.submit(asyncio.sleep(0, "right")).result(WAIT) == "right"
    with pytest.raises(ValueError, match="wrong"):
        failed.result(WAIT)
    loop.close(nothing())


def test_when_the_client_leaves_what_is_done_for_it_ends_and_leaving_again_or_late_does_nothing():
    loop, heard, begun = LoopThread("test"), asyncio.run(listener()), threading.Event()

    async def endless() -> str:
        heard.when_left(canceller())
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "ended"
        return "never"

    running: Future[str] = loop.submit(endless())
    assert begun.wait(WAIT)
    heard.leave()
    assert running.result(WAIT) == "ended"
    heard.leave()
    loop.close(nothing())
    late = asyncio.run(listener(left=True))
    calls: list[str] = []
    late.when_left(lambda: calls.append("at once"))
    assert calls == ["at once"]


def test_a_client_that_leaves_after_the_loop_has_ended_disturbs_nobody():
    loop, heard = LoopThread("test"), asyncio.run(listener())

    async def quick() -> None:
        heard.when_left(canceller())

    loop.submit(quick()).result(WAIT)
    loop.close(nothing())
    heard.leave()
    assert not heard.stays
