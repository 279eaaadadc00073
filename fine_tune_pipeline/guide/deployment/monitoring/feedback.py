"""What people's labels say of the champion's answers; it may be looked at after every label."""

from collections.abc import Sequence

from fine_tune_pipeline.guide.deployment.monitoring.e_detector import detect
from fine_tune_pipeline.guide.deployment.monitoring.labels import Label
from fine_tune_pipeline.programs.requests import Contract
from fine_tune_pipeline.spec.monitoring import FeedbackSpec

SHOWN_VALUES = 300
"""Of the detector, for the picture."""


class Feedback(Contract):
    """The verdict on the labels. `expected` is the share below which answers have become worse; `recent` is the share of the last labels,
    from `since` on, where the fall seems to begin; `values` is the detector, thinned out."""

    labels: int
    good: int
    expected: float
    p: float
    alpha: float
    alarm: bool
    since: int
    recent: float
    values: tuple[float, ...]


def judge_feedback(labels: Sequence[Label], *, version: str, right_when_evaluated: float | None, spec: FeedbackSpec) -> Feedback | None:
    """Test the labels on one version's answers; None when there are none, or nothing says what to expect.

    Args:
        right_when_evaluated: share of right answers on the test set, where that means anything.
    """
    good = [label.good for label in labels if label.version == version]
    share = spec.expected if spec.expected is not None else right_when_evaluated
    if not good or share is None or share <= spec.tolerance:
        return None
    expected = share - spec.tolerance
    found = detect(good, expected=expected)
    step = -(-len(found.values) // SHOWN_VALUES)
    return Feedback(
        labels=len(good),
        good=sum(good),
        expected=expected,
        p=found.p,
        alpha=spec.alpha,
        alarm=found.p <= spec.alpha and len(good) >= spec.minimum_labels,
        since=found.since,
        recent=found.recent,
        values=found.values[::step],
    )
