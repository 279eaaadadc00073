"""A new version goes live: loaded beside the old one, compared with its evaluation, tried on recent prompts, and only then released.

Whatever fails on the way, the old champion keeps answering. A version with another base model can't be loaded beside the old one, so it is
tried in a second server first.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Asked, read_examples
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.artifacts.traffic_database import LogFailed
from fine_tune_pipeline.guide.dataset.scrubbing.adapt import used_ner
from fine_tune_pipeline.guide.deployment.live import FILE, EndpointRecord, Live, read_endpoint
from fine_tune_pipeline.guide.deployment.parity import (
    HOSTED_LEAST_SHARE,
    LEAST_SHARE,
    Evaluated,
    Parity,
    compare,
    latency_check,
    parity_check,
    sample,
)
from fine_tune_pipeline.guide.deployment.register import RegisteredModel, offer, read_registered
from fine_tune_pipeline.guide.deployment.registry import ModelRegistry
from fine_tune_pipeline.guide.deployment.release.record import GATES, Release
from fine_tune_pipeline.guide.deployment.release.shadow import replay, shadow_check
from fine_tune_pipeline.guide.deployment.release.steps import Desk, Step, begin
from fine_tune_pipeline.guide.deployment.release.told import release_checks
from fine_tune_pipeline.guide.deployment.vllm import NotServable, refuse_unservable_version, upstream_of
from fine_tune_pipeline.guide.deployment.vllm_parity import as_vllm_may
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.guide.technique.answer_rows import read_answers
from fine_tune_pipeline.guide.technique.decoding import decoding_of
from fine_tune_pipeline.guide.technique.placement import answering_on
from fine_tune_pipeline.guide.technique.systems import trained_format
from fine_tune_pipeline.programs.hosted.requests import read_hosted
from fine_tune_pipeline.programs.requests import RegistryAddress, ServeRequest
from fine_tune_pipeline.programs.serving.answer_shape import AnswerShape
from fine_tune_pipeline.programs.serving.contract import CHALLENGER, SyncRequest, base_name, served_name
from fine_tune_pipeline.resources.endpoint import Endpoint, EndpointFailed, EndpointStatus, NotRunning
from fine_tune_pipeline.resources.endpoint_client import EndpointClient, EndpointError, Unreachable
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.inventory import Inventory


class NoTestRows(Exception):
    """There is nothing to compare the endpoint with."""


@dataclass(frozen=True)
class Sources:
    """The artifacts behind the version that goes live."""

    registered_model: Artifact
    adapter: Artifact
    base_model: Artifact
    dataset: Artifact
    predictions: Artifact
    pii_ner_adapt: Artifact | None = None
    retrieval_index: Artifact | None = None


@dataclass(frozen=True)
class Place:
    """Where the endpoint runs: its own server, a second one for trying, and how; `log` is what it is asked."""

    endpoint: Endpoint
    candidate: Endpoint
    host: str
    inventory: "Inventory"
    log: TrafficLog


APART = Check(
    name="shadow",
    passed=True,
    description="not replayed: the version was tried in a server of its own, where no champion answers beside it",
)
NOT_REPLAYED = Check(name="shadow", passed=False, description="not replayed: the version has not passed the comparison with its evaluation")


@dataclass(frozen=True)
class Outcome:
    """How the gates ended; `problem` says why there is no parity, or why a version that passed could not be released."""

    action: str
    parity: Parity | None
    shadow: Check = NOT_REPLAYED
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.parity is not None and self.parity.passed and self.shadow.passed and self.problem is None


def serve_request(
    spec: UseCaseSpec, sources: Sources, *, model: RegisteredModel, place: Place, registry: ModelRegistry | None = None
) -> ServeRequest:
    """What the server of this use case is started with."""
    task = read_task(spec)
    on = answering_on(place.inventory)
    state = str(place.endpoint.folder)
    ner = used_ner(sources.pii_ner_adapt)
    train = read_examples(sources.dataset.file("train.jsonl"))
    return ServeRequest(
        output=state,
        state=state,
        use_case=spec.name,
        model=str(sources.base_model.file("model")),
        format=trained_format(spec),
        max_new_tokens=model.max_new_tokens,
        host=place.host,
        port=spec.deployment.port,
        threads=on.threads,
        dtype=on.dtype,
        device=on.device,
        answer_schema=task.schema,
        answer_labels=tuple(task.labels or ()),
        decoding=decoding_of(spec, task, [row.completion for row in train]),
        pii=spec.pii,
        ner=None if ner is None else str(ner),
        conversations=any(row.asked.beside() for row in train),
        registry=None if registry is None else RegistryAddress(uri=registry.uri, poll_seconds=spec.deployment.registry_poll_seconds),
        traffic=spec.deployment.traffic,
        guard=spec.deployment.guard,
        vllm=upstream_of(spec),
    )


def build_endpoint(
    spec: UseCaseSpec, sources: Sources, *, place: Place, registry: ModelRegistry, before: Artifact | None, store: Store, folder: Path
) -> Built:
    """Bring the registered version live as far as it passes, and write `endpoint.json`.

    Args:
        before: the artifact of the last rollout: who is live when this one fails.

    Raises:
        NotRegistered: the registry does not know the version.
        NoTestRows: there is no test set to compare with.
    """
    model = read_registered(sources.registered_model)
    registry.confirm(model.version, adapter_sha256=model.adapter_sha256)
    rows = sample(held_out(sources), spec.deployment.parity_prompts, seed=spec.dataset.split.seed)
    request = serve_request(spec, sources, model=model, place=place, registry=registry)
    outcome = gates(spec, sources, request=request, model=model, rows=rows, place=place)
    candidate = _live(model, sources)
    step: Step | None = None
    if outcome.passed:
        desk = Desk(spec.name, place.endpoint, registry, log=place.log, store=store)
        outcome, step = _released(desk, outcome, _wished(spec, sources, model=model, request=request, candidate=candidate), spec=spec)
    status = place.endpoint.status()
    live = candidate if step is not None and step.everybody else None if before is None else read_endpoint(before).live
    record = EndpointRecord(url=status.url, action=outcome.action, tried=model.version, live=live, candidate=candidate)
    (folder / FILE).write_text(json.dumps(record.model_dump(), indent=2), encoding="utf-8")
    return Built(
        metadata=_metadata(outcome, record, status, step=step),
        markdown={"ask": _how_to_ask(status)},
        checks=_checks(outcome, status, step=step, spec=spec, wanted=model),
    )


def gates(
    spec: UseCaseSpec, sources: Sources, *, request: ServeRequest, model: RegisteredModel, rows: Sequence[Evaluated], place: Place
) -> Outcome:
    """Start or adopt the server, load the version beside the others, compare it with its evaluation, replay recent prompts on it.

    Nobody gets an answer of it yet.
    """
    action = "failed"
    try:
        refuse_unservable_version(spec, adapter=sources.adapter.file("adapter"), base_sha256=model.base_sha256)
        if place.endpoint.has_to_restart(request, base_sha256=model.base_sha256):
            parity = _tried_apart(place.candidate, request, sources, model=model, rows=rows)
            parity = as_vllm_may(parity, spec, dataset=sources.dataset, rows=rows)
            return Outcome(action="apart", parity=parity, shadow=APART) if parity.passed else Outcome(action="refused", parity=parity)
        action = place.endpoint.ensure(request, base_sha256=model.base_sha256)
        client = place.endpoint.client()
        parity = _tried(client, sources, model=model, rows=rows)
        parity = as_vllm_may(parity, spec, dataset=sources.dataset, rows=rows)
        shadow = _shadowed(client, spec, model=model, request=request, log=place.log) if parity.passed else NOT_REPLAYED
        if not (parity.passed and shadow.passed):
            client.sync(SyncRequest(drop=(CHALLENGER,)))
        return Outcome(action=action, parity=parity, shadow=shadow)
    except (NotServable, EndpointFailed, EndpointError, NotRunning, Unreachable) as error:
        return Outcome(action=action, parity=None, problem=str(error))


def _released(desk: Desk, outcome: Outcome, wished: Release, *, spec: UseCaseSpec) -> tuple[Outcome, Step | None]:
    """What becomes of a version that has passed."""
    try:
        step = begin(desk, wished, approval=spec.deployment.approval)
        if step.release is not None:
            # The artifact that is being made says so.
            desk.book.tell(step.release)
    except (EndpointFailed, EndpointError, NotRunning, Unreachable) as error:
        return replace(outcome, problem=str(error)), None
    action = outcome.action if outcome.action != "apart" else step.server
    return replace(outcome, action=action), step


def _wished(spec: UseCaseSpec, sources: Sources, *, model: RegisteredModel, request: ServeRequest, candidate: Live) -> Release:
    limit = spec.objective.limits.p95_latency_seconds
    return Release(
        live=candidate,
        offered=offer(model, sources.adapter, index=sources.retrieval_index),
        request=request,
        state="approval",
        since=0.0,
        reason="",
        by=GATES,
        canary=spec.deployment.canary,
        watch=spec.deployment.watch,
        limit_ms=None if limit is None else 1000 * limit,
    )


def _shadowed(client: EndpointClient, spec: UseCaseSpec, *, model: RegisteredModel, request: ServeRequest, log: TrafficLog) -> Check:
    champion = client.health().table.champion
    if champion is None or champion.state != "loaded" or champion.version == model.version:
        return shadow_check(None, skipped="not replayed: no other version is champion")
    if not spec.deployment.shadow:
        return shadow_check(None, skipped="not replayed: deployment.shadow is 0")
    try:
        asked = log.window(spec.deployment.shadow)
    except LogFailed as error:
        return Check(name="shadow", passed=False, description=f"not replayed: {error}")
    limit = spec.objective.limits.p95_latency_seconds
    shadow = replay(
        asked,
        client.answer,
        version=served_name(model.name, model.version),
        champion=champion.name,
        shape=AnswerShape(schema=request.answer_schema, labels=request.answer_labels),
        limit_ms=None if limit is None else 1000 * limit,
    )
    return shadow_check(shadow, skipped="not replayed: the traffic log holds no prompt yet")


def held_out(sources: Sources) -> list[Evaluated]:
    """The test prompts with the answers that were evaluated.

    Raises:
        NoTestRows: the test set is empty.
    """
    rows = read_examples(sources.dataset.file("test.jsonl"))
    if not rows:
        raise NoTestRows("dataset: the test set is empty, so the endpoint can't be compared with its evaluation; give held_out sources")
    texts = read_answers(sources.predictions.file("fine_tuned.jsonl"), rows)
    return [Evaluated(id=row.id, asked=row.asked, evaluated=text) for row, text in zip(rows, texts, strict=True)]


def _tried(client: EndpointClient, sources: Sources, *, model: RegisteredModel, rows: Sequence[Evaluated]) -> Parity:
    """The version, loaded beside the others and asked by its own name; nobody else gets it yet."""
    client.sync(SyncRequest(versions=(offer(model, sources.adapter, index=sources.retrieval_index),)))

    def answer(asked: Asked, *, model: str) -> str:
        return client.answer(asked, model=model, probe=True).text

    least = LEAST_SHARE if read_hosted(sources.base_model.file("model")) is None else HOSTED_LEAST_SHARE
    return compare(rows, answer, version=served_name(model.name, model.version), base=base_name(model.name), least_share=least)


def _tried_apart(
    candidate: Endpoint, request: ServeRequest, sources: Sources, *, model: RegisteredModel, rows: Sequence[Evaluated]
) -> Parity:
    """The same in a second server, which is gone afterwards."""
    state = str(candidate.folder)
    # The registry speaks of the versions of the other server.
    apart = request.model_copy(update={"output": state, "state": state, "port": 0, "registry": None})
    try:
        candidate.ensure(apart, base_sha256=model.base_sha256)
        return _tried(candidate.client(), sources, model=model, rows=rows)
    finally:
        candidate.stop()
        shutil.rmtree(candidate.folder, ignore_errors=True)


def _live(model: RegisteredModel, sources: Sources) -> Live:
    return Live(
        version=model.version,
        name=served_name(model.name, model.version),
        adapter_sha256=model.adapter_sha256,
        dataset=sources.dataset.fingerprint,
        predictions=sources.predictions.fingerprint,
    )


def _checks(outcome: Outcome, status: EndpointStatus, *, step: Step | None, spec: UseCaseSpec, wanted: RegisteredModel) -> list[Check]:
    name = served_name(wanted.name, wanted.version)
    health = _healthy(status, wanted=wanted if step is not None and step.everybody else None)
    stands = release_checks(step, approval=spec.deployment.approval, problem=outcome.problem)
    if outcome.parity is None:
        failed = f"version {wanted.version} was not compared: {outcome.problem}"
        latency = Check(name="latency", passed=False, blocking=False, description="not measured")
        loads = Check(name="loads", passed=False, description=f"{name}: {outcome.problem}")
        return [loads, Check(name="parity", passed=False, description=failed), outcome.shadow, *stands, health, latency]
    said = f"{name} is loaded; weights have SHA-256 {wanted.adapter_sha256[:12]}…, their base {wanted.base_sha256[:12]}…, as registered"
    latency = latency_check(outcome.parity, limit_seconds=spec.objective.limits.p95_latency_seconds)
    return [Check(name="loads", passed=True, description=said), parity_check(outcome.parity), outcome.shadow, *stands, health, latency]


def _healthy(status: EndpointStatus, *, wanted: RegisteredModel | None) -> Check:
    """The endpoint answers, and its champion is who it should be (None: whoever it was before)."""
    champion = None if status.table is None else status.table.champion
    right = wanted is None or (champion is not None and champion.adapter_sha256 == wanted.adapter_sha256)
    said = f"{status.state}; champion {status.champion or 'none'}; problems: {status.problem or 'none'}"
    if status.state != "running" or not right:
        said += f"; its log: {status.log}"
    return Check(name="healthy", passed=status.state == "running" and right, description=said)


def _metadata(outcome: Outcome, record: EndpointRecord, status: EndpointStatus, *, step: Step | None) -> dict[str, Any]:
    parity = outcome.parity
    measured = {} if parity is None else {"endpoint_equals_evaluation": parity.share, "p95_latency_seconds": parity.p95_seconds}
    return {
        "url": status.url,
        "action": record.action,
        "version": record.tried,
        "champion": status.champion,
        "state": status.state,
        "release": "refused" if step is None else step.reason,
        "problem": outcome.problem or status.problem,
        "supervisor_pid": status.supervisor_pid,
        "api_key_in": status.key,
        "log": str(status.log),
        **measured,
    }


def _how_to_ask(status: EndpointStatus) -> str:
    """A command to copy; the key is named, never shown."""
    if status.url is None:
        return "the endpoint does not run"
    key = f"$(cat {status.key})" if status.key.startswith("/") else "$FINE_TUNE_PIPELINE_API_KEY"
    body = '{"messages": [{"role": "user", "content": "…"}]}'
    return f"""```
curl {status.url}/v1/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" -d '{body}'
```"""
