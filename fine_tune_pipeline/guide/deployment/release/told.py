"""How a release is told: as checks of `endpoint`, and as an artifact of it when somebody decided outside of its run."""

import json
from datetime import UTC, datetime
from typing import Any

from fine_tune_pipeline.artifacts.fingerprint import payload
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.deployment.live import ASSET, FILE, EndpointRecord, live_of, read_endpoint
from fine_tune_pipeline.guide.deployment.release.steps import Desk, Step
from fine_tune_pipeline.programs.serving.contract import served_name

CANARY, WATCH, APPROVAL = "canary", "watch", "approval"


def release_checks(step: Step | None, *, approval: bool, problem: str | None = None) -> list[Check]:
    """The checks that say how far a version has come.

    Args:
        step: None when it has not passed the checks before.
        approval: whether the use case asks for a person.
        problem: why a version that passed could not be released.
    """
    if step is None:
        why = problem or "the version has not passed the checks before"
        held = [] if not approval else [Check(name=APPROVAL, passed=False, blocking=False, description=f"not asked for: {why}")]
        watch = Check(name=WATCH, passed=True, blocking=False, description="nothing new to watch")
        return [Check(name=CANARY, passed=False, description=f"not released: {why}"), watch, *held]
    checks = [_canary(step), _watch(step)]
    if approval:
        waits = step.does == "approval"
        said = step.reason if waits else "nobody is waited for"
        checks.append(Check(name=APPROVAL, passed=not waits, blocking=False, description=said))
    return checks


def publish(desk: Desk, step: Step) -> Artifact | None:
    """Write down what a step changed as the artifact of `endpoint` that is current from now on; None when it changed nothing.

    Who is live is read by drift and by people's comparisons; both find it there, whoever decided.
    """
    before = desk.store.peek(desk.use_case, ASSET)
    # One that was broken off after the decision is told of by whoever looks next.
    untold = step.release is not None and not step.release.told
    if before is None or not (step.changed or untold):
        return None
    old = read_endpoint(before)
    live = old.live if step.champion is None else live_of(desk.store, desk.use_case, step.champion)
    record = EndpointRecord(
        url=desk.endpoint.status().url,
        action=step.does,
        tried=old.tried if step.version is None else step.version,
        live=live,
        candidate=None if step.release is None else step.release.live,
    )
    content = payload(
        asset=ASSET,
        version=1,
        what={"release": facts(step), "observed_at": datetime.now(UTC).isoformat()},
        upstream=before.manifest.payload["upstream"],
    )
    with desk.store.draft(desk.use_case, content) as draft:
        (draft.folder / FILE).write_text(json.dumps(record.model_dump(), indent=2), encoding="utf-8")
        artifact = draft.finish(_built(before, step, use_case=desk.use_case))
    if step.release is not None:
        desk.book.tell(step.release)
    return artifact


def facts(step: Step) -> dict[str, Any]:
    """What a step is about, for machines."""
    return {
        "does": step.does,
        "version": step.version,
        "state": None if step.release is None else step.release.state,
        "reason": step.reason,
        "by": None if step.release is None else step.release.by,
        "champion": step.champion,
        "signals": [] if step.decision is None else step.decision.rows(),
    }


def _built(before: Artifact, step: Step, *, use_case: str) -> Built:
    """As the artifact before says, but for the release."""
    built = before.manifest.built
    who = {} if step.champion is None else {"champion": served_name(use_case, step.champion)}
    metadata = built.metadata | {"action": step.does, "release": step.reason, "version": step.version} | who
    approval = any(check.name == APPROVAL for check in built.checks)
    own = release_checks(step, approval=approval)
    others = [check for check in built.checks if check.name not in (CANARY, WATCH, APPROVAL)]
    return Built(metadata=metadata, markdown=built.markdown, checks=[*others, *own])


def _canary(step: Step) -> Check:
    """Blocking: a version that some users fared worse with is not given to all."""
    ended_badly = step.does == "refused" or (step.does == "roll_back" and not step.everybody_had)
    metadata: dict[str, Any] = {} if step.decision is None or not step.decision.signals else {"signals": step.decision.rows()}
    if step.does in ("canary", "promote", "refused", "wait", "approval") or ended_badly:
        return Check(name=CANARY, passed=not ended_badly, description=step.reason, metadata=metadata)
    return Check(name=CANARY, passed=True, description=f"no canary runs; {step.reason}")


def _watch(step: Step) -> Check:
    """Advisory: the version before answers again already."""
    if step.does == "roll_back" and step.everybody_had:
        metadata: dict[str, Any] = {} if step.decision is None else {"signals": step.decision.rows() or "none"}
        said = f"version {step.version} was rolled back: {step.reason}"
        return Check(name=WATCH, passed=False, blocking=False, description=said, metadata=metadata)
    release = step.release
    if release is None or release.state != "watch" or release.watch is None:
        return Check(name=WATCH, passed=True, blocking=False, description="nothing is watched")
    bounds = f"{release.watch.answers} requests or {release.watch.minutes:g} minutes"
    said = f"{release.name} is held against version {release.rival} for {bounds}, and rolled back when it is worse"
    return Check(name=WATCH, passed=True, blocking=False, description=said)
