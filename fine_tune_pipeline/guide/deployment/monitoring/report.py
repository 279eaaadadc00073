"""The drift report as it is kept: the verdict, all signals of the last window, and the windows judged before it."""

from typing import Literal

from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.deployment.monitoring.feedback import Feedback
from fine_tune_pipeline.guide.deployment.monitoring.operations import Measure
from fine_tune_pipeline.guide.deployment.monitoring.signals import Signal
from fine_tune_pipeline.programs.requests import Contract

FILE = "drift.json"

VERSION = 2
"""Of the report's form and rules, as in the asset's fingerprint."""

HISTORY = 100
"""Judged windows that a report remembers; more than an artifact of the traffic holds, so none is judged twice."""

Verdict = Literal["drift", "no drift", "not enough traffic"]


class EarlierReport(Exception):
    """A report was written by an earlier version of this project."""


class Judged(Contract):
    """The verdict on one window. `retrain`: an alarm of it calls for that. The shares of far texts are None when nothing was compared."""

    number: int
    sha256: str
    first: float
    last: float
    champion: str | None
    requests: int
    verdict: Verdict
    alarms: tuple[str, ...] = ()
    retrain: bool = False
    far: float | None = None
    held_back_far: float | None = None


class DriftReport(Contract):
    """`drift.json`. `signals`, `measures` and `versions` are of the last window; `champion` and the fingerprints say what it was held
    against; `waiting` requests are in no window yet; `new_windows` were judged by this report and not before."""

    verdict: Verdict
    requests: int
    minimum_requests: int
    window: int
    waiting: int
    alpha: float
    champion: str | None
    dataset: str | None
    predictions: str | None
    encoder_sha256: str | None
    signals: tuple[Signal, ...]
    feedback: Feedback | None
    measures: tuple[Measure, ...]
    versions: dict[str, int]
    judged: tuple[Judged, ...]
    new_windows: int

    @property
    def broken(self) -> list[Measure]:
        """Limits that the last window broke."""
        return [measure for measure in self.measures if measure.broken]

    @property
    def feedback_alarm(self) -> bool:
        """People's labels say that answers have become worse."""
        return self.feedback is not None and self.feedback.alarm

    def last_judged(self, most: int) -> list[Judged]:
        """The last windows that were enough for a verdict on this champion, oldest first."""
        return [one for one in self.judged if one.champion == self.champion and one.verdict != "not enough traffic"][-most:]


def read_drift(artifact: Artifact) -> DriftReport:
    """What an artifact of `drift_report` says.

    Raises:
        EarlierReport: it has another form.
    """
    if artifact.manifest.payload["version"] != VERSION:
        raise EarlierReport(f"the drift report {artifact.fingerprint} was written by an earlier version; run the monitor job")
    return DriftReport.read(artifact.file(FILE))
