"""Who is scrubbed when, what goes together, and what becomes of those whose batch fails."""

import threading
from collections.abc import Sequence

import pytest

from fine_tune_pipeline.programs.serving.scrubbing_thread import BATCH_TEXTS, Scrubber, ScrubbingThread
from fine_tune_pipeline_tests.programs.serving.serving_stand import scrubber

WAIT = 20.0


class Unscrubbable(Exception):
    """What a third-party scrubber may raise."""


def test_people_who_wait_are_scrubbed_before_rows_that_can():
    order: list[list[str]] = []
    entered, gate = threading.Event(), threading.Event()

    def noted(texts: Sequence[str]) -> list[str]:
        entered.set()
        assert gate.wait(WAIT)
        order.append(list(texts))
        return list(texts)

    scrubbing = ScrubbingThread(lambda: Scrubber("noted", noted))
    first = scrubbing.clean(["row 1"])
    assert entered.wait(WAIT)
    others = [scrubbing.clean(["row 2", "its answer"]), scrubbing.clean(["row 3"])]
    now = scrubbing.clean_now(["somebody"])
    gate.set()
    assert [done.result(WAIT) for done in (first, now, *others)] == [["row 1"], ["somebody"], ["row 2", "its answer"], ["row 3"]]
    assert order == [["row 1"], ["somebody"], ["row 2", "its answer", "row 3"]]
    scrubbing.close()


def test_many_and_long_texts_are_scrubbed_in_parts():
    parts: list[int] = []

    def noted(texts: Sequence[str]) -> list[str]:
        parts.append(len(texts))
        return [text.upper() for text in texts]

    scrubbing = ScrubbingThread(lambda: Scrubber("noted", noted))
    short, long = [f"row {number}" for number in range(40)], "x" * 15_000
    assert scrubbing.clean_now([*short, long, long, "end"]).result(WAIT) == [text.upper() for text in (*short, long, long, "end")]
    assert parts == [16, 16, 9, 2]
    scrubbing.close()


def test_a_text_that_fails_takes_no_other_with_it_and_what_waits_at_the_end_is_told():
    entered, gate = threading.Event(), threading.Event()

    def held(text: str) -> str:
        entered.set()
        assert gate.wait(WAIT)
        if text == "broken":
            raise Unscrubbable(text)
        return text.upper()

    scrubbing = ScrubbingThread(lambda: scrubber(held))
    first = scrubbing.clean(["a"])
    assert entered.wait(WAIT)
    good, bad, other = (scrubbing.clean([text]) for text in ("Ann Smith", "broken", "b"))
    gate.set()
    assert isinstance(bad.exception(WAIT), Unscrubbable)
    assert [done.result(WAIT) for done in (first, good, other)] == [["A"], ["ANN SMITH"], ["B"]]
    gate.clear()
    entered.clear()
    going = scrubbing.clean(["c"])
    assert entered.wait(WAIT)
    waiting = scrubbing.clean(["d"])
    scrubbing.close()
    gate.set()
    assert going.result(WAIT) == ["C"]
    assert waiting.cancelled()
    with pytest.raises(RuntimeError):
        scrubbing.clean(["e"])


def test_texts_that_can_wait_do_so_for_company_until_somebody_is_in_a_hurry_or_there_are_enough():
    together: list[int] = []

    def counted(texts: Sequence[str]) -> list[str]:
        together.append(len(texts))
        return list(texts)

    scrubbing = ScrubbingThread(lambda: Scrubber("counted", counted), company_seconds=3600)
    assert scrubbing.clean_now(["somebody"]).result(WAIT) == ["somebody"]
    waiting = [scrubbing.clean([f"row {number}"]) for number in range(3)]
    assert not any(done.done() for done in waiting)
    scrubbing.hurry()
    assert [done.result(WAIT) for done in waiting] == [["row 0"], ["row 1"], ["row 2"]]
    enough = [scrubbing.clean([f"row {number}"]) for number in range(BATCH_TEXTS)]
    assert [done.result(WAIT) for done in enough] == [[f"row {number}"] for number in range(BATCH_TEXTS)]
    assert together == [1, 3, BATCH_TEXTS]
    last = scrubbing.clean(["row"])
    scrubbing.close()
    assert last.cancelled()
