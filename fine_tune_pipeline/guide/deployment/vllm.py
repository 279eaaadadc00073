"""An endpoint whose answers vLLM computes: what it is told, and what must hold before anything of the rollout is tried."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.programs.vllm.adapter_files import adapter_problems
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from fine_tune_pipeline.programs.vllm.replica import Replica


class NotServable(Exception):
    """vLLM cannot serve this version as things stand; the message has every reason, and nothing was changed."""


def upstream_of(spec: UseCaseSpec) -> VllmUpstream | None:
    """Where the vLLM servers of a use case are; None when the endpoint answers by itself."""
    wanted = spec.deployment.vllm
    if wanted is None:
        return None
    at = spec.place(wanted.adapters_at)
    return VllmUpstream(
        urls=tuple(url.rstrip("/") for url in wanted.urls),
        replicas=wanted.replicas,
        api_key_variable=wanted.api_key_variable,
        mode=wanted.mode,
        base=wanted.base,
        model_name=wanted.model_name,
        adapters_at=at,
        seen_as=wanted.seen_as or at,
        max_lora_rank=wanted.max_lora_rank,
        timeout_seconds=wanted.timeout_seconds,
        load_seconds=wanted.load_seconds,
        requests_at_once=wanted.requests_at_once,
    )


def refuse_unservable_version(spec: UseCaseSpec, *, adapter: Path, base_sha256: str) -> None:
    """Look at the adapter's files and at every replica; nothing to look at where the endpoint answers by itself.

    Raises:
        NotServable: with every reason.
    """
    upstream = upstream_of(spec)
    if upstream is None:
        return
    problems = [*adapter_problems(adapter, max_lora_rank=upstream.max_lora_rank), *_server_problems(upstream, base_sha256=base_sha256)]
    if problems:
        raise NotServable("; ".join(problems))


def _server_problems(upstream: VllmUpstream, *, base_sha256: str) -> Iterator[str]:
    # The client of HTTP takes a tenth of a second to import: not while the code location is loaded.
    from fine_tune_pipeline.programs.vllm.replica import ReplicaError
    from fine_tune_pipeline.programs.vllm.replicas import NoVllmKey, Replicas, key_of

    try:
        replicas = Replicas(upstream, key=key_of(upstream))
    except NoVllmKey as error:
        yield str(error)
        return
    with closing(replicas):
        try:
            known = replicas.all()
        except ReplicaError as error:
            yield str(error)
            return
        for replica in known:
            yield from _problems_of(replica, upstream, base_sha256=base_sha256)


def _problems_of(replica: "Replica", upstream: VllmUpstream, *, base_sha256: str) -> Iterator[str]:
    from fine_tune_pipeline.programs.vllm.adapters import listing_problems
    from fine_tune_pipeline.programs.vllm.replica import ReplicaError

    try:
        listed = replica.models()
    except ReplicaError as error:
        yield str(error)
        return
    wrong = list(listing_problems(replica, listed, upstream))
    yield from wrong
    if not wrong and (problem := base_problem(listed[upstream.base].root, base_sha256)):
        yield f"{replica.url}: {problem}"


def base_problem(root: str | None, wanted: str) -> str | None:
    """Why the base model is another one, where its folder can be seen from here too; elsewhere only the compared answers can tell.

    Args:
        root: path from which vLLM has loaded it.
        wanted: SHA-256 of the base model's weights, as `programs.models.weights_sha256` has it.
    """
    files = sorted(Path(root).glob("*.safetensors")) if root is not None and Path(root).is_absolute() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    seen = digest.hexdigest()
    if seen == wanted:
        return None
    return f"serves {root}, whose weights have SHA-256 {seen[:12]}; the version was made for {wanted[:12]}: start vLLM with that base model"
