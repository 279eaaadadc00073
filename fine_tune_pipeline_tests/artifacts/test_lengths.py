import random

import pytest

from fine_tune_pipeline.artifacts.lengths import BINS, lengths

DRAW = random.Random(0)


@pytest.mark.parametrize("values", [[7], [0, 0], [1, 1, 2, 500], [DRAW.randrange(3000) for _ in range(999)]])
def test_percentiles_occur_and_split_the_values_as_their_names_say(values):
    found = lengths(values)
    for share, value in ((50, found.p50), (90, found.p90), (99, found.p99)):
        assert value in values
        assert sum(other <= value for other in values) >= share / 100 * len(values)
        assert sum(other < value for other in values) < share / 100 * len(values) or value == min(values)
    assert (found.rows, found.total, found.longest) == (len(values), sum(values), max(values))


@pytest.mark.parametrize("values", [[7], [0], [23, 24, 25], [DRAW.randrange(3000) for _ in range(999)]])
def test_every_value_is_counted_in_its_range(values):
    found = lengths(values)
    assert len(found.counts) <= BINS
    for place, count in enumerate(found.counts):
        assert count == sum(place * found.width <= value < (place + 1) * found.width for value in values)


def test_no_values_have_no_lengths():
    assert (lengths([]).rows, lengths([]).counts) == (0, ())
