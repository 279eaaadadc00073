"""Parity: equal to the evaluation, different from the base, and how long it took."""

import threading

import pytest

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.guide.deployment.parity import Evaluated, Parity, compare, latency_check, parity_check, sample

ROWS = [Evaluated(id=str(number), asked=Asked(f"p{number}"), evaluated=f"a{number}") for number in range(50)]


def endpoint(wrong: int = 0, *, base_differs_at: int | None = 0):
    """Answers as evaluated but for the first `wrong` prompts; the base differs from one prompt on, or nowhere."""
    asked: list[tuple[str, str]] = []

    def answer(question: Asked, *, model: str) -> str:
        asked.append((model, question.prompt))
        number = int(question.prompt[1:])
        if model == "base" and base_differs_at is not None and number >= base_differs_at:
            return "something else"
        return "wrong" if number < wrong else f"a{number}"

    return answer, asked


@pytest.mark.parametrize(("wrong", "passed"), [(0, True), (1, True), (2, False), (50, False)])
def test_one_answer_in_fifty_may_differ(wrong: int, passed: bool):
    answer, _ = endpoint(wrong)
    parity = compare(ROWS, answer, version="v1", base="base")
    check = parity_check(parity)
    assert (parity.equal, parity.asked, check.passed, check.blocking) == (50 - wrong, 50, passed, True)
    assert passed or "see `differences`" in check.description
    assert [row["id"] for row in parity.differences] == [str(number) for number in range(wrong)]


def test_a_version_that_answers_like_its_base_does_not_pass_though_it_answers_as_evaluated():
    answer, _ = endpoint(base_differs_at=None)
    check = parity_check(compare(ROWS, answer, version="v1", base="base"))
    assert not check.passed
    assert "the adapter does nothing" in check.description


def test_the_base_is_asked_only_until_it_differs():
    answer, asked = endpoint(base_differs_at=2)
    assert compare(ROWS, answer, version="v1", base="base").differs_from_base
    assert [prompt for model, prompt in asked if model == "base"] == ["p0", "p1", "p2"]


def test_twenty_answers_are_timed_one_at_a_time_and_the_others_asked_together():
    now, most, inside = threading.Lock(), [], []

    def answer(question: Asked, *, model: str) -> str:
        with now:
            inside.append(question.prompt)
            most.append((int(question.prompt[1:]), len(inside)))
        meet(question, model=model)
        with now:
            inside.remove(question.prompt)
        return f"a{question.prompt[1:]}" if model == "v1" else "other"

    barrier = threading.Barrier(2)

    def meet(question: Asked, *, model: str) -> None:
        # The first two of the others wait for each other: asked one after the other, they would never get on.
        if model == "v1" and question.prompt in {"p20", "p21"}:
            barrier.wait(timeout=60)

    parity = compare(ROWS, answer, version="v1", base="base")
    assert (len(parity.seconds), parity.equal, parity.passed) == (20, 50, True)
    assert {together for number, together in most if number < 20} == {1}


def test_the_sample_is_drawn_by_seed_and_a_small_set_is_taken_whole():
    drawn = sample(ROWS, 10, seed=3)
    assert drawn == sample(ROWS, 10, seed=3) != sample(ROWS, 10, seed=4)
    assert len({row.id for row in drawn}) == 10
    assert sample(ROWS, 80, seed=3) == ROWS


def test_p95_is_the_time_that_95_of_100_answers_keep_and_the_check_only_warns():
    parity = Parity(asked=100, equal=100, differs_from_base=True, seconds=tuple(float(number) for number in range(1, 101)), differences=())
    assert parity.p95_seconds == 95.0
    assert latency_check(parity, limit_seconds=95.0).passed
    late = latency_check(parity, limit_seconds=94.0)
    assert (late.passed, late.blocking) == (False, False)
    assert latency_check(parity, limit_seconds=None).passed
