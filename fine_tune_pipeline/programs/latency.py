"""How long one answer takes: some of the prompts once more, one at a time, as an endpoint meets them."""

import random
import time
from collections.abc import Callable, Sequence


def single_seconds(
    prompts: Sequence[list[int]], *, count: int, answer: Callable[[list[int]], object], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, ...]:
    """Seconds of single answers, in the order in which they were given.

    Args:
        prompts: token ids, those of one system; the same places are drawn of as many prompts, so that systems are timed on the same rows.
        count: how many are timed; all of them when there are fewer.
        answer: answers one prompt without any that was read before it; has answered others, so that nothing is met for the first time.
    """
    chosen = random.Random(0).sample(range(len(prompts)), min(count, len(prompts)))
    seconds = []
    for place in chosen:
        start = clock()
        answer(prompts[place])
        seconds.append(clock() - start)
    return tuple(seconds)
