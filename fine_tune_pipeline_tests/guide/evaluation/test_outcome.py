from typing import Any

import pytest

from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.outcome import Outcome, outcome
from fine_tune_pipeline.guide.evaluation.verdicts import Answer, Verdict, spent

BOUNDS = Bounds(0.8, 0.741, 0.85, 0.97, "exact", 200, 50)


def verdict(answer: Answer, criterion: str = "accuracy at least 0.7", **changes: Any) -> Verdict:
    reason = {
        "met": "0.800 on 200 rows in 50 groups; with 97 % confidence it is at least 0.741",
        "not met": "0.800 on 200 rows in 50 groups; with 97 % confidence it is at most 0.850",
        "cannot tell": "0.800 on 200 rows in 50 groups: it lies between 0.741 and 0.850, and 0.8 is inside",
    }[answer]
    whole: dict[str, Any] = {"bound": 0.741, "level": 0.97, "reason": reason, "bounds": BOUNDS, **changes}
    return Verdict("success", criterion, "accuracy", 0.8, verdict=answer, **whole)


LIMIT = Verdict("limit", "memory at most 2 GiB", "memory_gib", 3.0, None, None, "not met", "answering took 3.00 GiB at most")
UNSEEN = verdict("cannot tell", "recall.x at least 0.5", bound=None, bounds=None, reason="3 rows of the slice were seen, want at least 20")


SEEN = "0.800 on 200 rows in 50 groups"


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ([verdict("met")], f"met: its one criterion holds; “accuracy at least 0.7”: {SEEN}; with 97 % confidence it is at least 0.741"),
        ([verdict("met"), verdict("met", "b")], f"met: all 2 criteria hold; “accuracy at least 0.7”: {SEEN}"),
        (
            [verdict("met"), verdict("cannot tell", "b"), verdict("not met", "c")],
            f"not met: 1 of 3 criteria is missed; “c”: {SEEN}; with 97 % confidence it is at most 0.850",
        ),
        (
            [verdict("met"), verdict("cannot tell", "b"), verdict("cannot tell", "c")],
            f"cannot tell: 2 of 3 criteria are open; “b”: {SEEN}: it lies between 0.741 and 0.850, and 0.8 is inside "
            "(each bound with 97 % confidence)",
        ),
        ([verdict("not met")], "not met: its one criterion is missed; “accuracy at least 0.7”"),
        ([verdict("met"), LIMIT], "not met: 1 of 2 criteria is missed; “memory at most 2 GiB”: answering took 3.00 GiB at most"),
        ([UNSEEN], "cannot tell: its one criterion is open; “recall.x at least 0.5”: 3 rows of the slice were seen, want at least 20"),
        (spent([verdict("met")], why="look 6"), "cannot tell: its one criterion is open; “accuracy at least 0.7”: look 6"),
    ],
)
def test_first_line_names_the_verdict_and_the_criterion_that_decided(found: list[Verdict], line: str):
    assert outcome(found).line.startswith(f"Objective {line}")


def test_outcome_carries_rows_groups_estimate_bound_and_level():
    found = outcome([verdict("met")])
    assert found == Outcome("met", found.why, "accuracy at least 0.7", 200, 50, 0.8, 0.741, 0.97)


def test_outcome_of_a_measured_limit_has_no_rows():
    assert (outcome([LIMIT]).n, outcome([LIMIT]).estimate) == (None, 3.0)
