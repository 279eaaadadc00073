"""The embedded endpoint: `python -m fine_tune_pipeline.programs.serve --request request.json`.

Started and restarted by `programs/supervise.py`. On SIGTERM it refuses what is new (503), answers the running batch, writes what the
traffic log still holds, and ends with exit code 0.
"""

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
import uvicorn

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.artifacts.traffic_database import NoDatabaseUrl
from fine_tune_pipeline.artifacts.traffic_identity import ShortSalt, log_salt
from fine_tune_pipeline.programs.hosted.requests import HostedModel, read_hosted
from fine_tune_pipeline.programs.hosted.upstream import UpstreamNotSetUp
from fine_tune_pipeline.programs.json_guides import GuideMissing, UnsupportedSchema, UnsupportedTokenizer
from fine_tune_pipeline.programs.models import NoWeights, PickledWeights, weights_sha256
from fine_tune_pipeline.programs.process_identity import own_identity
from fine_tune_pipeline.programs.reporting import Reporter, parse, watch_parent
from fine_tune_pipeline.programs.requests import ServeRequest
from fine_tune_pipeline.programs.serving import answer_count
from fine_tune_pipeline.programs.serving.answer_count import AnswerCount
from fine_tune_pipeline.programs.serving.answer_shape import AnswerShape
from fine_tune_pipeline.programs.serving.contract import SERVER_FILE, USAGE_EXIT, ServerAddress, base_name, readable
from fine_tune_pipeline.programs.serving.draining_server import Server
from fine_tune_pipeline.programs.serving.guarded import GuardedService
from fine_tune_pipeline.programs.serving.http_gate import Keys, NoKey
from fine_tune_pipeline.programs.serving.http_routes import make_app
from fine_tune_pipeline.programs.serving.indexes import Indexes, QuestionEncoder
from fine_tune_pipeline.programs.serving.metrics import Metrics
from fine_tune_pipeline.programs.serving.model_thread import ModelThread
from fine_tune_pipeline.programs.serving.port_holder import holder_of
from fine_tune_pipeline.programs.serving.registry_aliases import asker
from fine_tune_pipeline.programs.serving.registry_watch import RegistryWatch
from fine_tune_pipeline.programs.serving.running import Written
from fine_tune_pipeline.programs.serving.served_models import ServedModels
from fine_tune_pipeline.programs.serving.served_prompts import encoder
from fine_tune_pipeline.programs.serving.service import Limits, Service
from fine_tune_pipeline.programs.serving.trace_copy import TraceCopy, wait_for_each_trace
from fine_tune_pipeline.programs.serving.traffic_writer import COMPANY_SECONDS, Scrubber, TrafficWriter
from fine_tune_pipeline.programs.serving.versions import BrokenTable, Models, Versions
from fine_tune_pipeline.programs.supervise import DEFAULT_PATIENCE
from fine_tune_pipeline.programs.tokenizer_fit import WrongTokenizer
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream

DEFAULT_LIMITS = Limits()

Encode = Callable[[Asked, str], Sized]
"""(what is asked, system message) -> the prompt, as long as it has tokens."""

KEEP_ALIVE_SECONDS = 75
"""Of an idle connection: longer than clients and proxies keep theirs, or they would ask over one that is just being closed."""

FLUSH_SECONDS = 30.0
"""Wait for the log's last rows when the server ends: the scrubber may still be loading its model."""

END_SECONDS = DEFAULT_PATIENCE.stop_seconds - 3
"""From SIGTERM to the end, at most: afterwards the supervisor kills."""


class Served(Models, Protocol):
    """What answers, with weights here, at vLLM, or at a provider; a future where answers are computed elsewhere."""

    @property
    def context_tokens(self) -> int: ...

    def generate(self, name: str, prompts: Sequence[Any], max_new_tokens: int) -> "Sequence[Written | Exception | Future[Any]]": ...


class PortTaken(Exception):
    """Somebody else listens on the port."""


class ModelThreadDied(Exception):
    """The model thread ended by an error of its own; a new process is needed."""


def main() -> None:
    """Run the server that the request describes."""
    request = parse(ServeRequest)
    watch_parent()
    try:
        run(request, keys=Keys.from_environment())
    except (
        NoKey, NoDatabaseUrl, ShortSalt, PortTaken, NoWeights, PickledWeights, UpstreamNotSetUp, WrongTokenizer, GuideMissing,
        UnsupportedSchema, UnsupportedTokenizer, BrokenTable,
    ) as error:  # fmt: skip
        Reporter(None).log(f"{type(error).__name__}: {error}")
        sys.exit(USAGE_EXIT)


def run(request: ServeRequest, *, keys: Keys, limits: Limits = DEFAULT_LIMITS) -> None:
    """Serve until a signal ends it.

    Raises:
        PortTaken: before anything is loaded.
        ModelThreadDied: the server must be started again.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    state = Path(request.state)
    listener = bind(request.host, request.port, before=_port_before(state))
    service, writer = _build(request, state=state, limits=limits)
    config = uvicorn.Config(
        make_app(service, keys.with_named(state)),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    say = Reporter(None).log
    port = listener.getsockname()[1]
    try:
        ServerAddress(host=request.host, port=port, server=own_identity()).write(state / SERVER_FILE)
    except OSError as error:
        # The disk is full. Clients know the address; only who looks after the server may not find it.
        say(f"{request.use_case}: {SERVER_FILE} cannot be written: {error}")
    say(f"{request.use_case}: listening on {request.host}:{port}")
    server = Server(config, service)
    asyncio.run(server.serve(sockets=[listener]))
    writer.close(min(FLUSH_SECONDS, max(1.0, END_SECONDS - server.ending_seconds)))
    if not service.draining:
        raise ModelThreadDied("the model thread ended; its error stands above")
    say(f"{request.use_case}: ended")


def bind(host: str, port: int, *, before: int | None) -> socket.socket:
    """A bound socket; port 0 takes the port of `before` again if it is free, else any.

    Raises:
        PortTaken: names the port.
    """
    wanted = [port] if port or before is None else [before, 0]
    for number in wanted:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # For any free port only afterwards: the system could choose one that somebody has bound and does not listen on yet.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(number != 0))
        try:
            listener.bind((host, number))
        except OSError as error:
            listener.close()
            if number == wanted[-1]:
                raise PortTaken(
                    f"port {port} of {host}: {error.strerror}, by {holder_of(port)}; end that one, or choose another deployment.port, "
                    "or 0 for any free one"
                ) from error
            continue
        # The next server could not bind the port for a minute, as long as connections of this one linger.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return listener
    raise AssertionError("the last one either binds or raises")


def _build(request: ServeRequest, *, state: Path, limits: Limits) -> tuple[Service, TrafficWriter]:
    """Load everything, and answer once before anybody is let in."""
    folder = Path(request.model)
    base_sha256 = weights_sha256(folder)
    base = base_name(request.use_case)
    hosted = read_hosted(folder)
    if request.vllm is not None:
        models, tokens = _at_vllm(request, request.vllm, base)
    else:
        models, tokens = _with_weights(request, base) if hosted is None else _at_provider(request, hosted, base)
    metrics = Metrics()
    weights = models if isinstance(models, ServedModels) else None
    generate = models.generate if weights is None else weights.serve
    thread: ModelThread[Written] = ModelThread(
        generate, joining=weights is not None, batch_rows=limits.batch_rows, queue_limit=limits.waiting, on_batch=metrics.batch
    )
    thread.start()
    indexes = Indexes(state, encoder=_question_encoder)
    versions = Versions(
        state,
        use_case=request.use_case,
        base_sha256=base_sha256,
        base_new_tokens=request.max_new_tokens,
        models=models,
        thread=thread,
        indexes=indexes,
    )
    versions.restore()
    champion = versions.table.champion
    warm = champion.name if champion is not None and champion.state == "loaded" else base
    thread.submit(warm, tokens(Asked("Hello"), ""), max_new_tokens=1).result()
    writer = _writer(request, state)
    service = _service(
        request,
        use_case=request.use_case,
        format=request.format,
        context_tokens=models.context_tokens,
        encode=tokens,
        versions=versions,
        indexes=indexes,
        thread=thread,
        writer=writer,
        shape=AnswerShape(schema=request.answer_schema, labels=request.answer_labels),
        limits=limits,
        conversations=request.conversations,
        ability=getattr(models, "ability", "remote"),
        metrics=metrics,
        engine=_engine(request),
    )
    if request.registry is not None:
        registry = request.registry
        service.registry = RegistryWatch(asker(registry.uri, request.use_case), versions, every_seconds=registry.poll_seconds)
        service.registry.start()
    return service, writer


def _engine(request: ServeRequest) -> str:
    """What computes the answers: another version of it may round otherwise."""
    return f"torch {torch.__version__} transformers {transformers.__version__} {request.dtype} {request.device}"


def _writer(request: ServeRequest, state: Path) -> TrafficWriter:
    """What keeps the traffic, where the use case wants it."""
    log = TrafficLog.of(request.traffic, use_case=request.use_case, folder=state, kept_open=True)
    count = AnswerCount(state / answer_count.FILE)
    copy = _trace_copy(request)
    return TrafficWriter(
        log, scrubber=lambda: _scrubber(request), salt=log_salt(state), count=count, copy=copy, company_seconds=COMPANY_SECONDS
    )


def _trace_copy(request: ServeRequest) -> TraceCopy | None:
    """For the share that the use case wants in MLflow, where its versions are registered too."""
    if request.registry is None or not request.traffic.mlflow_share:
        return None
    wait_for_each_trace()
    return TraceCopy(uri=request.registry.uri, use_case=request.use_case, share=request.traffic.mlflow_share)


def _service(request: ServeRequest, **parts: Any) -> Service:
    """The endpoint, with a guard between clients and model where the use case wants one: then its scrubber must be there first."""
    if not request.guard.on:
        return Service(**parts)
    service = GuardedService(guard=request.guard, **parts)
    service.writer.scrubbing.wait_until_ready()
    return service


def _with_weights(request: ServeRequest, base: str) -> tuple[Served, Encode]:
    models = ServedModels(
        Path(request.model), base_name=base, format=request.format, dtype=request.dtype, device=request.device, decoding=request.decoding
    )
    return models, encoder(request.model, format=request.format)


def _at_provider(request: ServeRequest, hosted: HostedModel, base: str) -> tuple[Served, Encode]:
    # Only hosted models need the provider's client, which is an extra.
    from fine_tune_pipeline.programs.hosted.serving import HostedModels, remote_prompts

    return HostedModels(hosted, base_name=base), remote_prompts(request.format)


def _at_vllm(request: ServeRequest, upstream: VllmUpstream, base: str) -> tuple[Served, Encode]:
    from fine_tune_pipeline.programs.vllm.serving import VllmModels

    models = VllmModels(
        upstream,
        base_name=base,
        model=Path(request.model),
        format=request.format,
        state=Path(request.state),
        decoding=request.decoding,
    )
    return models, encoder(request.model, format=request.format)


def _question_encoder() -> QuestionEncoder:
    """What embedded the index, for those versions that look something up."""
    from fine_tune_pipeline.programs.embed import DISTRIBUTION, embed_texts, load_encoder

    encoder = load_encoder()
    return QuestionEncoder(name=DISTRIBUTION.replace("==", " "), embed=lambda texts: embed_texts(texts, encoder))


def _scrubber(request: ServeRequest) -> Scrubber:
    # spaCy and Presidio take seconds to import: the first answers need not wait for them.
    from fine_tune_pipeline.programs.pii.scrubbing import detector, one_thread, scrub_texts

    found = detector(request.pii, ner=request.ner)
    one_thread()
    return Scrubber(name=found.name, clean=lambda texts: scrub_texts(texts, detector=found))


def _port_before(state: Path) -> int | None:
    """The port that the server had last time, so that its address stays the same over a restart."""
    before = readable(ServerAddress, state / SERVER_FILE)
    return None if before is None else before.port


if __name__ == "__main__":
    main()
