"""Evaluations of one use case in order of time: what had changed since the one before, and what that did on the same test rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example, read_examples, read_rows
from fine_tune_pipeline.artifacts.fingerprint import changed_values
from fine_tune_pipeline.artifacts.looks import looked_at
from fine_tune_pipeline.artifacts.manifest import Manifest
from fine_tune_pipeline.artifacts.store import Artifact, DamagedArtifact, Store
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.scoring import NoRowCounts, Scores
from fine_tune_pipeline.guide.evaluation.statistics import two_sided
from fine_tune_pipeline.guide.objective.metrics import UnknownMetric, metric_named
from fine_tune_pipeline.guide.objective.task import Task, read_task
from fine_tune_pipeline.spec.use_case import UseCaseSpec

REPORT = "evaluation_report"
SCORES, STATISTICS = "scores.jsonl", "statistics.jsonl"

LEVEL = 0.95
"""Of two-sided intervals."""

BEFORE, AFTER = "before", "after"


class NotComparable(Exception):
    """Two evaluations did not judge the same thing; the message says what differs."""


@dataclass(frozen=True)
class Gain:
    """Of one evaluation's fine-tuned model over that of the one before, paired by row; positive is better."""

    estimate: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True)
class Experiment:
    """One evaluation. `gain` is over the one before, or `not_compared` says why there is none."""

    fingerprint: str
    made_at: str
    current: bool
    changed: tuple[str, ...]
    metric: str
    estimate: float
    low: float | None
    high: float | None
    n: int
    gain: Gain | None
    not_compared: str
    objective: str
    decision: str
    training_minutes: float
    costs: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class History:
    """Experiments, the oldest first, and evaluations that cannot be read any more with the reason."""

    experiments: Sequence[Experiment]
    unread: Sequence[str] = ()


def history(store: Store, spec: UseCaseSpec) -> History:
    """Every evaluation that the store holds of a use case."""
    task, current = read_task(spec), store.peek(spec.name, REPORT)
    found: list[Experiment] = []
    unread: list[str] = []
    before: Artifact | None = None
    for manifest in store.history(spec.name, REPORT):
        report = store.find(spec.name, REPORT, manifest.fingerprint)
        assert report is not None
        try:
            one = _experiment(store, spec, task, before, report)
        except (DamagedArtifact, KeyError, ValueError) as error:
            # An earlier version of the project has written it, or somebody has deleted a part: the others stand without.
            unread.append(f"{manifest.fingerprint}: {type(error).__name__}: {error}")
            continue
        found.append(replace(one, current=current is not None and current.fingerprint == report.fingerprint))
        before = report
    return History(found, unread)


def _experiment(store: Store, spec: UseCaseSpec, task: Task, before: Artifact | None, report: Artifact) -> Experiment:
    said = report.json("report.json")
    metric, own = said["primary_metric"], said["systems"][FINE_TUNED][said["primary_metric"]]
    gain, why = None, "the first"
    if before is not None:
        try:
            gain, why = gain_over(store, spec, task, before, report, metric=metric), ""
        except NotComparable as error:
            why = f"not comparable: {error}"
    return Experiment(
        fingerprint=report.fingerprint,
        made_at=report.manifest.made_at.isoformat(timespec="seconds"),
        current=False,
        changed=() if before is None else tuple(changed(before.manifest, report.manifest, _finder(store, spec.name))),
        metric=metric,
        estimate=own["estimate"],
        low=own["low"],
        high=own["high"],
        n=said["n"],
        gain=gain,
        not_compared=why,
        objective=answer_of(said),
        decision=said["recommendation"]["choice"],
        training_minutes=round(said["training"]["seconds"] / 60, 2),
        costs=next((cost for cost in said["costs"] if cost["system"] == FINE_TUNED), {}),
    )


def answer_of(report: Mapping[str, Any]) -> str:
    """Whether the objective is met: only if every criterion is, and not met if one is not."""
    answers = {verdict["verdict"] for verdict in report["verdicts"]}
    return next((answer for answer in ("not met", "cannot tell") if answer in answers), "met")


def gain_over(store: Store, spec: UseCaseSpec, task: Task, before: Artifact, after: Artifact, *, metric: str) -> Gain:
    """The paired gain in a metric.

    Raises:
        NotComparable: other test rows, another metric, rows that are gone, or none that counts.
    """
    rows = _same_rows(store, spec.name, before, after)
    if rows is None:
        raise NotComparable("other test rows")
    try:
        kind = metric_named(metric, task)
    except UnknownMetric as error:
        raise NotComparable(f"{metric} is no metric of the task by now") from error
    scores = Scores(
        rows=rows,
        metrics={metric: kind},
        by_system={name: {metric: _numbers(one, rows, metric)} for name, one in ((BEFORE, before), (AFTER, after))},
        statistics={name: {metric: _statistics(one, rows, metric)} for name, one in ((BEFORE, before), (AFTER, after))}
        if kind.corpus is not None
        else {},
        cluster_by=spec.objective.evidence.cluster_by,
    )
    try:
        found = scores.gain(AFTER, metric, over=BEFORE, level=two_sided(LEVEL))
    except NoRowCounts as error:
        raise NotComparable(str(error)) from error
    return Gain(found.estimate, found.lower, found.upper, found.rows, found.method)


def changed(before: Manifest, after: Manifest, find: Callable[[str, str], Manifest | None], seen: set[str] | None = None) -> list[str]:
    """What differs, followed up through all that the two were made from, such as `training.epochs: 2.0 → 3.0`. Each asset is told once.

    Args:
        find: asset and fingerprint -> its manifest, None if it is gone.
        seen: assets that were told already.
    """
    told = set() if seen is None else seen
    lines: list[str] = []
    for name, (old, new) in changed_values(before.payload, after.payload).items():
        asset = name.removeprefix("upstream.")
        if asset == name:
            lines.append(_line(before.asset, name, old, new))
            continue
        if asset in told:
            continue
        told.add(asset)
        both = [find(asset, print_) if print_ is not None else None for print_ in (old, new)]
        if both[0] is None or both[1] is None:
            lines.append(f"{asset}: {_short(old)} → {_short(new)}")
        else:
            lines += changed(both[0], both[1], find, told)
    return list(dict.fromkeys(lines))


def _line(asset: str, name: str, old: Any, new: Any) -> str:
    if name == "version":
        return f"rules of {asset}: version {old} → {new}"
    if "sha256" in name:
        return f"{name.split('.', 1)[-1]}: other content"
    return f"{name}: {_short(old)} → {_short(new)}"


def _short(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _finder(store: Store, use_case: str) -> Callable[[str, str], Manifest | None]:
    kept: dict[str, dict[str, Manifest]] = {}

    def find(asset: str, print_: str) -> Manifest | None:
        if asset not in kept:
            kept[asset] = {manifest.fingerprint: manifest for manifest in store.history(use_case, asset)}
        return kept[asset].get(print_)

    return find


def _same_rows(store: Store, use_case: str, before: Artifact, after: Artifact) -> list[Example] | None:
    """The test rows of both, in the order of the later one; None if they say something else."""
    old, new = (_test_rows(store, use_case, report) for report in (before, after))
    said = [dict(zip([row.id for row in rows], looked_at(rows), strict=True)) for rows in (old, new)]
    return new if said[0] == said[1] else None


def _test_rows(store: Store, use_case: str, report: Artifact) -> list[Example]:
    print_ = report.manifest.payload["upstream"]["dataset"]
    dataset = store.find(use_case, "dataset", print_)
    if dataset is None:
        raise NotComparable(f"the test rows of {report.fingerprint} are no longer in the store (dataset {print_})")
    return read_examples(dataset.file("test.jsonl"))


def _numbers(report: Artifact, rows: list[Example], metric: str) -> list[float]:
    """One score per row; 0 for a row that does not count, which `Scores` leaves out again."""
    kept = {row["id"]: row for row in read_rows(report.file(SCORES)) if row["system"] == FINE_TUNED}
    if not any(metric in row for row in kept.values()):
        raise NotComparable(f"{report.fingerprint} was not judged by {metric}")
    return [float(kept[row.id].get(metric, 0.0)) for row in rows]


def _statistics(report: Artifact, rows: list[Example], metric: str) -> list[list[float]]:
    kept = {row["id"]: row for row in read_rows(report.file(STATISTICS)) if row["system"] == FINE_TUNED}
    return [kept[row.id][metric] for row in rows]
