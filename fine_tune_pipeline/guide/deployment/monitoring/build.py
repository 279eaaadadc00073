"""Judging what is new in production, and writing down what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.deployment.live import Live
from fine_tune_pipeline.guide.deployment.monitoring.feedback import Feedback, judge_feedback
from fine_tune_pipeline.guide.deployment.monitoring.for_review import keep_for_review, unlike
from fine_tune_pipeline.guide.deployment.monitoring.labels import Label
from fine_tune_pipeline.guide.deployment.monitoring.operations import Measure, OperationLimits, Prices, measured
from fine_tune_pipeline.guide.deployment.monitoring.page import alarms_told, html_page, markdown, pictures
from fine_tune_pipeline.guide.deployment.monitoring.reference import FILE as REFERENCE
from fine_tune_pipeline.guide.deployment.monitoring.reference import (
    Embed,
    Texts,
    embedded_texts,
    evaluated_answers,
    kept_texts,
    sample,
    share_right,
)
from fine_tune_pipeline.guide.deployment.monitoring.report import FILE, HISTORY, DriftReport, EarlierReport, Judged, Verdict, read_drift
from fine_tune_pipeline.guide.deployment.monitoring.signals import Compared, Reference, Sample, Signal, far_of, judge
from fine_tune_pipeline.guide.deployment.monitoring.windows import Window
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.monitoring import MonitoringSpec

if TYPE_CHECKING:
    import numpy as np

PAGE = "drift.html"

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Watched:
    """What is looked at: the champion, closed windows of production with their rows, labels, and how strict to be."""

    live: Live | None
    windows: Sequence[tuple[Window, Rows]]
    waiting: int
    labels: Sequence[Label]
    task: Task
    monitoring: MonitoringSpec
    limits: OperationLimits
    prices: Prices | None
    seed: int


@dataclass(frozen=True)
class _Seen:
    """What is known of one window."""

    verdict: Judged
    signals: tuple[Signal, ...] = ()
    measures: tuple[Measure, ...] = ()
    versions: dict[str, int] | None = None
    unlike: Sequence[str] = ()


def build_drift_report(store: Store, use_case: str, watched: Watched, *, embed: Embed, before: Artifact | None, folder: Path) -> Built:
    """Judge the windows that are new; write `drift.json`, `drift.html` and, where something was compared, the reference's embeddings;
    `far.jsonl` names the requests that people should look at, if there are any.

    Args:
        before: the last report: what it judged is not judged again, and its embeddings are taken when the reference is the same.

    Raises:
        ReferenceGone: the champion's dataset or predictions were deleted.
    """
    earlier = None if before is None else _readable(before)
    known = set() if earlier is None else {one.sha256 for one in earlier.judged}
    new = [(window, rows) for window, rows in watched.windows if window.sha256 not in known]
    seen, encoder = _judged(store, use_case, watched, new, embed=embed, before=before, earlier=earlier, folder=folder)
    feedback = None if watched.live is None else _feedback(store, use_case, watched, watched.live)
    report = _report(watched, seen, earlier=earlier, feedback=feedback, encoder=encoder)
    (folder / FILE).write_text(report.model_dump_json(indent=2), encoding="utf-8")
    (folder / PAGE).write_text(html_page(report), encoding="utf-8")
    far = keep_for_review((id_ for one in seen for id_ in one.unlike), before=before, folder=folder)
    return Built(
        metadata={**_metadata(report), "for_review": far},
        markdown={"report": markdown(report), **pictures(report)},
        checks=[drift_check(report), limits_check(report)],
    )


def comparable(live: Live | None, rows: Rows) -> list[dict[str, Any]]:
    """Answered requests to the version that is live now, whose text could be scrubbed: those of an older version say nothing about it."""
    if live is None:
        return []
    version = str(live.version)
    return [row for row in rows if row["version"] == version and row["status"] == 200 and row["prompt_scrubbed"] is not None]


def drift_check(report: DriftReport) -> Check:
    """Advisory; too little traffic is not "no drift", so it does not pass either."""
    if report.verdict == "not enough traffic":
        return Check(name="no_drift", passed=False, blocking=False, description=too_little(report))
    said = f"{report.verdict} in {report.requests} requests: {alarms_told(report)}"
    if report.verdict == "drift":
        said += "; look at the examples, review corrections, and retrain if they are what the model should know"
    return Check(name="no_drift", passed=report.verdict == "no drift", blocking=False, description=said)


def too_little(report: DriftReport) -> str:
    """Why there is no verdict."""
    if report.champion is None:
        return "not enough traffic: no version is live"
    if not report.versions:
        return f"not enough traffic: {report.waiting} requests wait, a window is closed with {report.window}"
    said = f"not enough traffic: {report.requests} answered requests to {report.champion} in the last window"
    return f"{said}, want at least {report.minimum_requests}"


def limits_check(report: DriftReport) -> Check:
    """Advisory: what the endpoint's own figures break calls for operators, never for a training."""
    judged = [measure for measure in report.measures if measure.limit is not None and measure.value is not None]
    if not judged:
        return Check(name="within_limits", passed=True, blocking=False, description="nothing to hold against a limit yet")
    told = ", ".join(f"{one.name} {one.value:.3g} {one.unit} (limit {one.limit:g})" for one in report.broken or judged)
    return Check(name="within_limits", passed=not report.broken, blocking=False, description=("above: " if report.broken else "") + told)


def _judged(
    store: Store, use_case: str, watched: Watched, new: Sequence[tuple[Window, Rows]], *, embed: Embed, before: Artifact | None,
    earlier: DriftReport | None, folder: Path,
) -> tuple[list[_Seen], str | None]:  # fmt: skip
    """A verdict on each new window, and by which encoder."""
    kept = None if before is None or earlier is None else _same_texts(before, earlier, watched.live)
    usable = [comparable(watched.live, rows) for _, rows in new]
    enough = [rows if len(rows) >= watched.monitoring.minimum_requests else [] for rows in usable]
    if watched.live is None or not any(enough):
        if kept is not None:
            kept.keep(folder)
        seen = [_seen(watched, window, rows, few) for (window, rows), few in zip(new, usable, strict=True)]
        return seen, earlier.encoder_sha256 if earlier is not None and kept is not None else None
    production = embed([row["prompt_scrubbed"] for rows in enough for row in rows])
    if earlier is None or kept is None or earlier.encoder_sha256 != production.encoder_sha256:
        kept = embedded_texts(store, use_case, watched.live, embed=embed, seed=watched.seed)
    kept.keep(folder)
    answers = evaluated_answers(store, use_case, watched.live, watched.task)
    held_back = Sample(vectors=kept.held_back, lengths=kept.lengths.tolist(), answers=answers)
    reference = Reference(train=kept.train, held_back=held_back, seed=watched.seed)
    found, start = [], 0
    for (window, rows), few, whole in zip(new, usable, enough, strict=True):
        vectors = production.vectors[start : start + len(whole)]
        found.append(_compared(watched, window, rows, whole, vectors, reference) if whole else _seen(watched, window, rows, few))
        start += len(whole)
    return found, production.encoder_sha256


def _compared(watched: Watched, window: Window, rows: Rows, whole: Rows, vectors: "np.ndarray", reference: Reference) -> _Seen:
    """The verdict on a window with enough requests."""
    compared = Compared(window=sample(whole, vectors, watched.task), reference=reference)
    signals = judge(compared, alpha=watched.monitoring.alpha, texts=[row["prompt_scrubbed"] for row in whole])
    shares = far_of(compared)
    alarms = [signal for signal in signals if signal.alarm]
    seen = _seen(watched, window, rows, whole)
    verdict = seen.verdict.model_copy(
        update={
            "verdict": "drift" if alarms else "no drift",
            "alarms": tuple(signal.name for signal in alarms),
            "retrain": any(signal.calls_for == "retrain" for signal in alarms),
            "far": shares.production.share,
            "held_back_far": shares.held_back.share,
        }
    )
    far = unlike(whole, compared.near.few, threshold=shares.threshold) if verdict.retrain else []
    return _Seen(verdict=verdict, signals=signals, measures=seen.measures, versions=seen.versions, unlike=far)


def _seen(watched: Watched, window: Window, rows: Rows, usable: Rows) -> _Seen:
    """A window that nothing was compared of."""
    verdict = Judged(
        number=window.number,
        sha256=window.sha256,
        first=window.first,
        last=window.last,
        champion=None if watched.live is None else watched.live.name,
        requests=len(usable),
        verdict="not enough traffic",
    )
    return _Seen(verdict=verdict, measures=measured(rows, watched.limits, watched.prices), versions=window.versions)


def _feedback(store: Store, use_case: str, watched: Watched, live: Live) -> Feedback | None:
    version = str(live.version)
    if not any(label.version == version for label in watched.labels):
        return None
    right = share_right(store, use_case, live, watched.task)
    return judge_feedback(watched.labels, version=version, right_when_evaluated=right, spec=watched.monitoring.feedback)


def _report(
    watched: Watched, seen: Sequence[_Seen], *, earlier: DriftReport | None, feedback: Feedback | None, encoder: str | None
) -> DriftReport:
    """All of it together; without a new window the last verdict on this champion stands."""
    live = watched.live
    champion = None if live is None else live.name
    last = seen[-1] if seen else _last(earlier, champion)
    verdict: Verdict = "not enough traffic" if last is None else last.verdict.verdict
    if feedback is not None and feedback.alarm:
        verdict = "drift"
    history = (*(() if earlier is None else earlier.judged), *(one.verdict for one in seen))
    return DriftReport(
        verdict=verdict,
        requests=0 if last is None else last.verdict.requests,
        minimum_requests=watched.monitoring.minimum_requests,
        window=watched.monitoring.window,
        waiting=watched.waiting,
        alpha=watched.monitoring.alpha,
        champion=champion,
        dataset=None if live is None else live.dataset,
        predictions=None if live is None else live.predictions,
        encoder_sha256=encoder,
        signals=() if last is None else last.signals,
        feedback=feedback,
        measures=() if last is None else last.measures,
        versions={} if last is None else last.versions or {},
        judged=history[-HISTORY:],
        new_windows=len(seen),
    )


def _last(earlier: DriftReport | None, champion: str | None) -> _Seen | None:
    """What the last report says of its last window, if that was the same champion's."""
    if earlier is None or not earlier.judged or earlier.judged[-1].champion != champion:
        return None
    return _Seen(earlier.judged[-1], earlier.signals, earlier.measures, earlier.versions)


def _readable(before: Artifact) -> DriftReport | None:
    try:
        return read_drift(before)
    except EarlierReport:
        return None


def _same_texts(before: Artifact, earlier: DriftReport, live: Live | None) -> Texts | None:
    """The reference's embeddings of the last report, if it had the same reference and needed any."""
    if live is None or earlier.dataset != live.dataset or REFERENCE not in before.manifest.files:
        return None
    return kept_texts(before)


def _metadata(report: DriftReport) -> dict[str, Any]:
    numbers = {f"{signal.name}/{field}": getattr(signal, field) for signal in report.signals for field in ("p", "adjusted", "effect")}
    figures = {measure.name: measure.value for measure in report.measures if measure.value is not None}
    feedback = report.feedback
    said = {} if feedback is None else {"labels": feedback.labels, "good_share": feedback.good / feedback.labels, "feedback/p": feedback.p}
    return {
        "verdict": report.verdict,
        "requests": report.requests,
        "waiting": report.waiting,
        "champion": report.champion,
        "new_windows": report.new_windows,
        **numbers,
        **figures,
        **said,
    }
