"""A whole endpoint with weights, behind a real socket in a thread of this process, and OpenAI's own client to ask it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import uvicorn

from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.programs import serve
from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.programs.requests import PromptFormat, ServeRequest
from fine_tune_pipeline.programs.serving.contract import OfferedVersion, SyncRequest
from fine_tune_pipeline.programs.serving.http_gate import Keys
from fine_tune_pipeline.programs.serving.http_routes import make_app
from fine_tune_pipeline.programs.serving.service import Limits, Service
from fine_tune_pipeline.programs.serving.traffic_writer import Scrubber
from fine_tune_pipeline_tests.programs.serving.serving_stand import ADMIN_KEY, USER_KEY, WAIT
from fine_tune_pipeline_tests.waiting import wait_until

ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Api:
    """One endpoint with its address."""

    service: Service
    url: str
    log: TrafficLog

    def client(self, key: str = USER_KEY) -> openai.OpenAI:
        """OpenAI's client; it is a context manager."""
        return openai.OpenAI(api_key=key, base_url=f"{self.url}/v1", max_retries=0, timeout=WAIT)

    def promote(self, version: int, adapters: Sequence[Path]) -> None:
        """Have the adapters loaded as versions 1, 2, …, and this one champion."""
        base = self.service.versions.table.base_sha256
        offers = tuple(
            OfferedVersion(
                version=number, adapter=str(adapter), adapter_sha256=weights_sha256(adapter), base_sha256=base, max_new_tokens=ANSWER_TOKENS
            )
            for number, adapter in enumerate(adapters, start=1)
        )
        self.service.versions.sync(SyncRequest(versions=offers, aliases={"champion": version}))


@contextmanager
def api(base: Path, state: Path, *, limits: Limits | None = None, **changes: Any) -> Iterator[Api]:
    """The endpoint of `base`; it is gone afterwards, threads included. Its log is scrubbed of nothing."""
    state.mkdir(exist_ok=True)
    place = {"output": str(state), "state": str(state), "model": str(base), "use_case": "bank", "port": 0, "threads": 1}
    request = ServeRequest.model_validate({"format": PromptFormat(), "max_new_tokens": ANSWER_TOKENS, **place, **changes})
    before, serve._scrubber = serve._scrubber, lambda _: Scrubber("none", list)  # type: ignore[assignment]
    try:
        service, writer = serve._build(request, state=state, limits=limits or Limits())
        writer.scrubbing.wait_until_ready()
    finally:
        serve._scrubber = before
    listener = serve.bind("127.0.0.1", 0, before=None)
    app = make_app(service, Keys(user=USER_KEY, admin=ADMIN_KEY))
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none", timeout_keep_alive=serve.KEEP_ALIVE_SECONDS)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http")
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Api(service, f"http://127.0.0.1:{listener.getsockname()[1]}", TrafficLog.at(state))
    finally:
        server.should_exit = True
        thread.join(WAIT)
        service.drain()
        writer.close(WAIT)
    assert not thread.is_alive()
