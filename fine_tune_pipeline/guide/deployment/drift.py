"""Does production still look like what the champion was made for? Drift, no drift, or not enough traffic; with p, effect and examples."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fine_tune_pipeline.artifacts.examples import read_examples, read_rows
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.deployment.drift_tests import far_shares, holm, less_sure, more_far, nearest
from fine_tune_pipeline.guide.deployment.rollout import Live
from fine_tune_pipeline.programs.requests import Contract
from fine_tune_pipeline.spec.deployment import MonitoringSpec

if TYPE_CHECKING:
    import numpy as np

FILE = "drift.json"
PAGE = "drift.md"
REFERENCE = "reference.npz"

MOST_REFERENCE_TEXTS = 2000
"""Of training texts and of held-back ones; more cost embedding time and change nothing (about 80 texts a second on a core)."""

EXAMPLES = 5

Verdict = Literal["drift", "no drift", "not enough traffic"]


class ReferenceGone(Exception):
    """The artifacts that the champion was made for are no longer in the store."""


@dataclass(frozen=True)
class Embedded:
    """Sentence embeddings, float32 [texts, width], unit length, and the hash of the encoder that made them."""

    vectors: "np.ndarray"
    encoder_sha256: str


Embed = Callable[[Sequence[str]], Embedded]


class Signal(Contract):
    """One test. `adjusted` is p after Holm's correction; `examples` are the production texts that speak loudest."""

    name: str
    asks: str
    p: float
    adjusted: float
    effect: float
    effect_means: str
    production: int
    reference: int
    alarm: bool
    examples: tuple[str, ...]


class DriftReport(Contract):
    """`drift.json`. `champion` and the two fingerprints say against what was compared."""

    verdict: Verdict
    requests: int
    minimum_requests: int
    window: int
    alpha: float
    champion: str | None
    dataset: str | None
    predictions: str | None
    encoder_sha256: str | None
    signals: tuple[Signal, ...]


@dataclass(frozen=True)
class Reference:
    """What the champion was made for: embeddings of training texts and of held-back ones, and how sure it was on the test set."""

    train: "np.ndarray"
    held_back: "np.ndarray"
    confidences: list[float]
    encoder_sha256: str


@dataclass(frozen=True)
class Watched:
    """What is compared: the champion, the window of production, and how strict to be."""

    live: Live | None
    rows: Sequence[dict[str, Any]]
    monitoring: MonitoringSpec
    seed: int


def build_drift_report(store: Store, use_case: str, watched: Watched, *, embed: Embed, before: Artifact | None, folder: Path) -> Built:
    """Write `drift.json`, `drift.md` and, when there was something to compare, the reference's embeddings.

    Args:
        before: the last report, whose embeddings are taken again when the reference is the same.

    Raises:
        ReferenceGone: the champion's dataset or predictions were deleted.
    """
    rows = comparable(watched)
    if watched.live is None or len(rows) < watched.monitoring.minimum_requests:
        report = _report(watched, rows, verdict="not enough traffic", signals=(), encoder=None)
    else:
        production = embed([row["prompt_scrubbed"] for row in rows])
        reference = _reference(store, use_case, watched, encoder=production.encoder_sha256, embed=embed, before=before)
        _keep(reference, folder / REFERENCE)
        signals = judge(rows, production.vectors, reference, alpha=watched.monitoring.alpha)
        verdict: Verdict = "drift" if any(signal.alarm for signal in signals) else "no drift"
        report = _report(watched, rows, verdict=verdict, signals=signals, encoder=reference.encoder_sha256)
    (folder / FILE).write_text(json.dumps(report.model_dump(), ensure_ascii=False, indent=2), encoding="utf-8")
    page = markdown(report)
    (folder / PAGE).write_text(page, encoding="utf-8")
    return Built(metadata=_metadata(report), markdown={"report": page}, checks=[drift_check(report)])


def read_drift(artifact: Artifact) -> DriftReport:
    """What an artifact of `drift_report` says."""
    return DriftReport.read(artifact.file(FILE))


def comparable(watched: Watched) -> list[dict[str, Any]]:
    """Answered requests to the version that is live now, whose text could be scrubbed: those of an older version say nothing about it."""
    if watched.live is None:
        return []
    version = str(watched.live.version)
    return [row for row in watched.rows if row["version"] == version and row["status"] == 200 and row["prompt_scrubbed"] is not None]


def judge(rows: Sequence[dict[str, Any]], vectors: "np.ndarray", reference: Reference, *, alpha: float) -> tuple[Signal, ...]:
    """All tests of one window, corrected for their number.

    Args:
        rows: production requests.
        vectors: their embeddings, in order.
        alpha: chance of any false alarm in one window.
    """
    near = nearest(vectors, reference.train)
    shares = far_shares(near, nearest(reference.held_back, reference.train))
    outcomes = {"far_share": more_far(shares)}
    sure = [row["confidence"] for row in rows if row["confidence"] is not None]
    if sure and reference.confidences:
        outcomes["confidence"] = less_sure(sure, reference.confidences)
    adjusted = holm({name: outcome.p for name, outcome in outcomes.items()})
    loudest = {
        "far_share": [rows[int(place)]["prompt_scrubbed"] for place in near.argsort(kind="stable")[:EXAMPLES]],
        "confidence": [row["prompt_scrubbed"] for row in sorted(rows, key=_confidence)[:EXAMPLES]],
    }
    sizes = {"far_share": (shares.production, shares.held_back), "confidence": (len(sure), len(reference.confidences))}
    return tuple(
        Signal(
            name=name,
            asks=ASKS[name],
            p=outcome.p,
            adjusted=adjusted[name],
            effect=outcome.effect,
            effect_means=_effect(name, outcome.effect, production=shares.production_share, held_back=shares.held_back_share),
            production=sizes[name][0],
            reference=sizes[name][1],
            alarm=adjusted[name] <= alpha,
            examples=tuple(loudest[name]),
        )
        for name, outcome in outcomes.items()
    )


ASKS = {
    "far_share": "Do more requests than held-back texts lie far from everything that the model was trained on? (Fisher's exact test)",
    "confidence": "Is the model less sure of its answers than on the test set? (Mann-Whitney's rank test)",
}


def drift_check(report: DriftReport) -> Check:
    """Advisory; too little traffic is not "no drift", so it does not pass either."""
    if report.verdict == "not enough traffic":
        said = f"not enough traffic: {report.requests} requests to the champion, want at least {report.minimum_requests}"
        return Check(name="no_drift", passed=False, blocking=False, description=said)
    told = "; ".join(f"{signal.name}: p {signal.adjusted:.3g} (Holm), {signal.effect_means}" for signal in report.signals)
    said = f"{report.verdict} in {report.requests} requests at alpha {report.alpha:g}: {told}"
    if report.verdict == "drift":
        said += "; look at the examples, review corrections, and retrain"
    return Check(name="no_drift", passed=report.verdict == "no drift", blocking=False, description=said)


def markdown(report: DriftReport) -> str:
    """The report for people."""
    head = (
        f"# {report.verdict}\n\n{report.requests} requests to {report.champion or 'no champion'}; alpha {report.alpha:g} over all signals."
    )
    if not report.signals:
        return f"{head}\n\nAt least {report.minimum_requests} requests are needed for a verdict.\n"
    lines = [
        f"| {signal.name} | {signal.p:.3g} | {signal.adjusted:.3g} | {signal.effect_means} | {signal.production} | {signal.reference} |"
        for signal in report.signals
    ]
    table = ["| signal | p | p after Holm | effect | requests | reference |", "|---|---|---|---|---|---|", *lines]
    parts = [
        f"## {signal.name}\n\n{signal.asks}\n\n" + "\n".join(f"- {_one_line(text)}" for text in signal.examples)
        for signal in report.signals
    ]
    return "\n\n".join([head, "\n".join(table), *parts]) + "\n"


def _effect(name: str, effect: float, *, production: float, held_back: float) -> str:
    if name == "far_share":
        return f"{production:.1%} of the requests are far, {held_back:.1%} of the held-back texts"
    return f"a production answer is less sure than a held-back one with probability {0.5 + effect:.2f}"


def _reference(store: Store, use_case: str, watched: Watched, *, encoder: str, embed: Embed, before: Artifact | None) -> Reference:
    """The reference of the champion; its embeddings are taken from the last report if that had the same one."""
    assert watched.live is not None
    predictions = _found(store, use_case, "predictions", watched.live.predictions)
    confidences = [row["logprob"] for row in read_rows(predictions.file("fine_tuned.jsonl")) if row["logprob"] is not None]
    kept = None if before is None else _kept(before, dataset=watched.live.dataset, encoder=encoder)
    if kept is None:
        dataset = _found(store, use_case, "dataset", watched.live.dataset)
        texts = {name: [row.prompt for row in read_examples(dataset.file(f"{name}.jsonl"))] for name in ("train", "validation", "test")}
        draw = random.Random(watched.seed)
        train, held_back = _at_most(texts["train"], draw), _at_most([*texts["validation"], *texts["test"]], draw)
        vectors = embed([*train, *held_back]).vectors
        kept = vectors[: len(train)], vectors[len(train) :]
    return Reference(train=kept[0], held_back=kept[1], confidences=confidences, encoder_sha256=encoder)


def _found(store: Store, use_case: str, asset: str, fingerprint: str) -> Artifact:
    found = store.find(use_case, asset, fingerprint)
    if found is None:
        raise ReferenceGone(f"{use_case}/{asset} {fingerprint}: the champion was made with it, but it is gone; deploy a version again")
    return found


def _kept(before: Artifact, *, dataset: str, encoder: str) -> "tuple[np.ndarray, np.ndarray] | None":
    import numpy as np

    report = read_drift(before)
    if (report.dataset, report.encoder_sha256) != (dataset, encoder):
        return None
    with np.load(before.file(REFERENCE), allow_pickle=False) as stored:
        return stored["train"], stored["held_back"]


def _keep(reference: Reference, path: Path) -> None:
    import numpy as np

    np.savez(path, train=reference.train, held_back=reference.held_back)


def _at_most(texts: list[str], draw: random.Random) -> list[str]:
    return texts if len(texts) <= MOST_REFERENCE_TEXTS else draw.sample(texts, MOST_REFERENCE_TEXTS)


def _confidence(row: dict[str, Any]) -> float:
    # Requests without one come last.
    return float("inf") if row["confidence"] is None else row["confidence"]


def _report(
    watched: Watched, rows: Sequence[dict[str, Any]], *, verdict: Verdict, signals: tuple[Signal, ...], encoder: str | None
) -> DriftReport:
    live = watched.live
    return DriftReport(
        verdict=verdict,
        requests=len(rows),
        minimum_requests=watched.monitoring.minimum_requests,
        window=watched.monitoring.window,
        alpha=watched.monitoring.alpha,
        champion=None if live is None else live.name,
        dataset=None if live is None else live.dataset,
        predictions=None if live is None else live.predictions,
        encoder_sha256=encoder,
        signals=signals,
    )


def _metadata(report: DriftReport) -> dict[str, Any]:
    numbers = {f"{signal.name}/{field}": getattr(signal, field) for signal in report.signals for field in ("p", "adjusted", "effect")}
    return {"verdict": report.verdict, "requests": report.requests, "champion": report.champion, **numbers}


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
