from itertools import count

from fine_tune_pipeline.programs.latency import single_seconds


def timed(prompts: int, *, wanted: int) -> tuple[list[list[int]], tuple[float, ...]]:
    """What was answered, and the times by a clock that ticks once at every look."""
    asked: list[list[int]] = []
    ticks = count()
    seconds = single_seconds([[place] for place in range(prompts)], count=wanted, answer=asked.append, clock=lambda: float(next(ticks)))
    return asked, seconds


def test_so_many_prompts_are_timed_one_at_a_time_and_no_more_than_there_are():
    assert timed(100, wanted=10)[1] == (1.0,) * 10
    assert len(timed(3, wanted=10)[0]) == 3
    assert timed(3, wanted=0) == ([], ())


def test_systems_with_as_many_prompts_are_timed_on_the_same_rows():
    first, second = timed(100, wanted=10)[0], timed(100, wanted=10)[0]
    assert first == second
    assert len({prompt[0] for prompt in first}) == 10
