"""A new version goes live: loaded beside the old one, compared with its evaluation, and only then made champion.

Whatever fails on the way, the old champion keeps answering. A version with another base model can't be loaded beside the old one, so it is
tried in a second server first.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Asked, read_examples
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.dataset.scrubbing.adapt import used_ner
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
from fine_tune_pipeline.guide.deployment.vllm import NotServable, refuse_unservable_version, upstream_of
from fine_tune_pipeline.guide.deployment.vllm_parity import as_vllm_may
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.guide.technique.answer_rows import read_answers
from fine_tune_pipeline.guide.technique.decoding import decoding_of
from fine_tune_pipeline.guide.technique.placement import answering_on
from fine_tune_pipeline.guide.technique.systems import trained_format
from fine_tune_pipeline.programs.hosted.requests import read_hosted
from fine_tune_pipeline.programs.requests import Contract, ServeRequest
from fine_tune_pipeline.programs.serving.contract import CHAMPION, PREVIOUS, SyncRequest, Table, base_name, served_name
from fine_tune_pipeline.resources.endpoint import Endpoint, EndpointFailed, EndpointStatus, NotRunning
from fine_tune_pipeline.resources.endpoint_client import EndpointClient, EndpointError, Unreachable
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.inventory import Inventory

FILE = "endpoint.json"


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
    """Where the endpoint runs: its own server, a second one for trying, and how."""

    endpoint: Endpoint
    candidate: Endpoint
    host: str
    inventory: "Inventory"


class Live(Contract):
    """The champion, and the artifacts that say what it was made for: drift is measured against these."""

    version: int
    name: str
    adapter_sha256: str
    dataset: str
    predictions: str


class EndpointRecord(Contract):
    """`endpoint.json`. `live` is who answers afterwards: the new version, or still the old one when the new one failed."""

    url: str | None
    action: str
    tried: int
    live: Live | None


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended; `problem` says why there is no parity."""

    action: str
    parity: Parity | None
    problem: str | None

    @property
    def passed(self) -> bool:
        return self.parity is not None and self.parity.passed


def serve_request(spec: UseCaseSpec, sources: Sources, *, model: RegisteredModel, place: Place) -> ServeRequest:
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
        vllm=upstream_of(spec),
    )


def build_endpoint(
    spec: UseCaseSpec, sources: Sources, *, place: Place, registry: ModelRegistry, before: Artifact | None, folder: Path
) -> Built:
    """Bring the registered version live if it answers as evaluated, and write `endpoint.json`.

    Args:
        before: the artifact of the last rollout: who is live when this one fails.

    Raises:
        NotRegistered: the registry does not know the version.
        NoTestRows: there is no test set to compare with.
    """
    model = read_registered(sources.registered_model)
    registry.confirm(model.version, adapter_sha256=model.adapter_sha256)
    rows = sample(held_out(sources), spec.deployment.parity_prompts, seed=spec.dataset.split.seed)
    outcome = roll_out(spec, sources, model=model, rows=rows, place=place)
    if outcome.passed:
        promote(registry, model.version)
    status = place.endpoint.status()
    live = _live(model, sources) if outcome.passed else None if before is None else read_endpoint(before).live
    record = EndpointRecord(url=status.url, action=outcome.action, tried=model.version, live=live)
    (folder / FILE).write_text(json.dumps(record.model_dump(), indent=2), encoding="utf-8")
    return Built(
        metadata=_metadata(outcome, record, status),
        markdown={"ask": _how_to_ask(status)},
        checks=_checks(outcome, status, limit_seconds=spec.objective.limits.p95_latency_seconds, wanted=model),
    )


def roll_out(spec: UseCaseSpec, sources: Sources, *, model: RegisteredModel, rows: Sequence[Evaluated], place: Place) -> Outcome:
    """Start or adopt the server, load the version beside the others, compare, and make it champion if it passed."""
    request = serve_request(spec, sources, model=model, place=place)
    offered = offer(model, sources.adapter, index=sources.retrieval_index)
    action = "failed"
    try:
        refuse_unservable_version(spec, adapter=sources.adapter.file("adapter"), base_sha256=model.base_sha256)
        if place.endpoint.has_to_restart(request, base_sha256=model.base_sha256):
            parity = _tried_apart(place.candidate, request, sources, model=model, rows=rows)
            parity = as_vllm_may(parity, spec, dataset=sources.dataset, rows=rows)
            if not parity.passed:
                return Outcome(action="refused", parity=parity, problem=None)
            action = place.endpoint.ensure(request, base_sha256=model.base_sha256)
        else:
            action = place.endpoint.ensure(request, base_sha256=model.base_sha256)
            parity = _tried(place.endpoint.client(), sources, model=model, rows=rows)
            parity = as_vllm_may(parity, spec, dataset=sources.dataset, rows=rows)
        if parity.passed:
            _make_champion(place.endpoint.client(), SyncRequest(versions=(offered,)), model.version)
        else:
            place.endpoint.client().sync(SyncRequest())
        return Outcome(action=action, parity=parity, problem=None)
    except (NotServable, EndpointFailed, EndpointError, NotRunning, Unreachable) as error:
        return Outcome(action=action, parity=None, problem=str(error))


def promote(registry: ModelRegistry, version: int) -> None:
    """Let the registry say who is champion, and who was before."""
    champion = registry.aliases().get(CHAMPION)
    if champion == version:
        return
    registry.point(CHAMPION, version)
    if champion is not None:
        registry.point(PREVIOUS, champion)


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


def read_endpoint(artifact: Artifact) -> EndpointRecord:
    """What an artifact of `endpoint` says."""
    return EndpointRecord.read(artifact.file(FILE))


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
    apart = request.model_copy(update={"output": state, "state": state, "port": 0})
    try:
        candidate.ensure(apart, base_sha256=model.base_sha256)
        return _tried(candidate.client(), sources, model=model, rows=rows)
    finally:
        candidate.stop()
        shutil.rmtree(candidate.folder, ignore_errors=True)


def _make_champion(client: EndpointClient, wished: SyncRequest, version: int) -> Table:
    """One step for those who ask: until it the old champion answers, from it the new one."""
    before = client.health().table.champion
    aliases = {CHAMPION: version}
    if before is not None and before.version != version and before.state == "loaded":
        aliases[PREVIOUS] = before.version
    return client.sync(wished.model_copy(update={"aliases": aliases}))


def _live(model: RegisteredModel, sources: Sources) -> Live:
    return Live(
        version=model.version,
        name=served_name(model.name, model.version),
        adapter_sha256=model.adapter_sha256,
        dataset=sources.dataset.fingerprint,
        predictions=sources.predictions.fingerprint,
    )


def _checks(outcome: Outcome, status: EndpointStatus, *, limit_seconds: float | None, wanted: RegisteredModel) -> list[Check]:
    if outcome.parity is None:
        failed = f"version {wanted.version} was not compared: {outcome.problem}"
        latency = Check(name="latency", passed=False, blocking=False, description="not measured")
        return [Check(name="parity", passed=False, description=failed), _healthy(status, wanted=None), latency]
    health = _healthy(status, wanted=wanted if outcome.passed else None)
    return [parity_check(outcome.parity), health, latency_check(outcome.parity, limit_seconds=limit_seconds)]


def _healthy(status: EndpointStatus, *, wanted: RegisteredModel | None) -> Check:
    """The endpoint answers, and its champion is who it should be (None: whoever it was before)."""
    champion = None if status.table is None else status.table.champion
    right = wanted is None or (champion is not None and champion.adapter_sha256 == wanted.adapter_sha256)
    said = f"{status.state}; champion {status.champion or 'none'}; problems: {status.problem or 'none'}"
    if status.state != "running" or not right:
        said += f"; its log: {status.log}"
    return Check(name="healthy", passed=status.state == "running" and right, description=said)


def _metadata(outcome: Outcome, record: EndpointRecord, status: EndpointStatus) -> dict[str, Any]:
    parity = outcome.parity
    measured = {} if parity is None else {"endpoint_equals_evaluation": parity.share, "p95_latency_seconds": parity.p95_seconds}
    return {
        "url": status.url,
        "action": record.action,
        "version": record.tried,
        "champion": status.champion,
        "state": status.state,
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
