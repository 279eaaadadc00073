"""A whole release without weights: an endpoint over real HTTP in this process, a real MLflow registry, a real store and traffic log."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import uvicorn

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Store, content_of
from fine_tune_pipeline.guide.deployment.live import FILE, EndpointRecord, Live
from fine_tune_pipeline.guide.deployment.registry import ModelRegistry
from fine_tune_pipeline.guide.deployment.release.record import GATES, Release
from fine_tune_pipeline.guide.deployment.release.steps import Desk, Step, begin
from fine_tune_pipeline.guide.deployment.release.told import publish
from fine_tune_pipeline.programs.requests import PromptFormat, ServeRequest
from fine_tune_pipeline.programs.serving.answer_shape import AnswerShape
from fine_tune_pipeline.programs.serving.contract import OfferedVersion
from fine_tune_pipeline.programs.serving.http_gate import Keys
from fine_tune_pipeline.programs.serving.http_routes import make_app
from fine_tune_pipeline.resources.endpoint import Endpoint, EndpointStatus, NotRunning
from fine_tune_pipeline.resources.endpoint_client import EndpointClient
from fine_tune_pipeline.spec.release import CanarySpec, WatchSpec
from fine_tune_pipeline_tests.guide.deployment.release import log_rows
from fine_tune_pipeline_tests.programs.serving.serving_stand import ADMIN_KEY, BASE_SHA256, USER_KEY, Stand, fake_adapter, offered, stand
from fine_tune_pipeline_tests.waiting import wait_until

USE_CASE = "bank"


def live(version: int) -> Live:
    return Live(
        version=version, name=f"bank-v{version}", adapter_sha256=f"{version}" * 64, dataset=f"d{version}", predictions=f"p{version}"
    )


def a_request(folder: Path | str = "/nowhere") -> ServeRequest:
    return ServeRequest(
        output=str(folder), state=str(folder), use_case=USE_CASE, model="/nowhere", format=PromptFormat(), max_new_tokens=8, port=0
    )


def a_release(version: int = 2, **fields: Any) -> Release:
    """A canary beside version 1 that has just begun, unless `fields` say otherwise."""
    given = OfferedVersion(version=version, adapter="/nowhere", adapter_sha256="a" * 64, base_sha256=BASE_SHA256, max_new_tokens=8)
    values: dict[str, Any] = {
        "live": live(version), "offered": given, "request": a_request(), "state": "canary", "since": 1000.0, "reason": "", "by": GATES,
        "rival": 1, "canary": CanarySpec(), "watch": WatchSpec(),
    }  # fmt: skip
    return Release(**{**values, **fields})


@dataclass(frozen=True)
class StandEndpoint(Endpoint):
    """An endpoint whose server is a thread of this process."""

    url: str = ""
    down: threading.Event = field(default_factory=threading.Event)

    def ensure(self, request: ServeRequest, *, base_sha256: str) -> Literal["started", "adopted", "restarted"]:
        assert base_sha256 == BASE_SHA256
        return "adopted"

    def client(self) -> EndpointClient:
        if self.down.is_set():
            raise NotRunning("bank: no endpoint runs")
        return EndpointClient(url=self.url, key=USER_KEY, admin_key=ADMIN_KEY, timeout_seconds=20.0)

    def status(self) -> EndpointStatus:
        health = None if self.down.is_set() else self.client().health()
        table = super().status().table if health is None else health.table
        return EndpointStatus(USE_CASE, "running", None, self.url, 1, health, table, 0, "key", self.folder / "log")


@dataclass
class World:
    """One use case, its endpoint, and a clock that the test turns."""

    stand: Stand
    endpoint: StandEndpoint
    registry: ModelRegistry
    store: Store
    seconds: float = 0.0

    @property
    def desk(self) -> Desk:
        return Desk(USE_CASE, self.endpoint, self.registry, log=self.stand.log, store=self.store, now=lambda: self.seconds)

    @property
    def client(self) -> EndpointClient:
        return self.endpoint.client()

    def register(self, version: int) -> OfferedVersion:
        """A version in the registry, with files."""
        folder = self.stand.folder / f"made-{version}"
        if not folder.exists():
            fake_adapter(folder, content=f"weights {version}")
        for number in range(1, version + 1):
            tags = {"fingerprint": f"f{number}", "adapter_sha256": f"{number}" * 64}
            assert self.registry.register(folder, run_id=None, tags=tags) == number
        if self.registry.aliases().get("champion") != version:
            self.registry.point("challenger", version)
        return offered(version, folder)

    def begin(self, version: int, *, approval: bool = False, **fields: Any) -> Step:
        """What the asset `endpoint` does once the checks have passed: the release begins, and its artifact is kept."""
        wished = a_release(version, offered=self.register(version), state="approval", since=0.0, rival=None, **fields)
        step = begin(self.desk, wished, approval=approval)
        now = live(version) if step.everybody else self.live
        record = EndpointRecord(url=self.endpoint.url, action="adopted", tried=version, live=now, candidate=live(version))
        with self.store.draft(
            USE_CASE, content_of(asset="endpoint", version=1, what={"at": repr((version, self.seconds))}, upstream={})
        ) as draft:
            record.write(draft.folder / FILE)
            draft.finish(Built())
        if step.release is not None:
            self.desk.book.tell(step.release)
        return step

    def kept(self, step: Step) -> Step:
        """A step that somebody took outside of a run, written down."""
        publish(self.desk, step)
        return step

    @property
    def live(self) -> Live | None:
        """Who is live, by the artifact that drift reads."""
        found = self.store.peek(USE_CASE, "endpoint")
        return None if found is None else EndpointRecord.read(found.file(FILE)).live

    def ask(self, count: int, *, user: str = "user") -> list[str]:
        """Answers to `count` users; the names of the versions that gave them, once all is in the log."""
        before = len(self.stand.log)
        names = [self.client.answer(f"question {number}", user=f"{user}-{number}").model for number in range(count)]
        wait_until(lambda: len(self.stand.log) == before + count)
        return names

    def fill(self, count: int, *, arm: str, version: int, bad: int = 0, **fields: Any) -> None:
        """`count` rows of the log at the time of the clock, the first `bad` of which are as `fields` say."""
        start = len(self.stand.log)
        made = log_rows.arm(count, bad=bad, **fields)
        self.stand.log.append(
            [
                replace(row.request, id=f"x{start + number}", ts=self.seconds + 1 + number / 1000, arm=arm, version=str(version))
                for number, row in enumerate(made)
            ]
        )


@contextmanager
def world(folder: Path, uri: str, *, shape: AnswerShape | None = None) -> Iterator[World]:
    """All of it; gone afterwards.

    Args:
        uri: of an MLflow registry without the model.
    """
    with stand(folder / "state", shape=shape) as it:
        config = uvicorn.Config(make_app(it.service, Keys(user=USER_KEY, admin=ADMIN_KEY)), port=0, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        endpoint = StandEndpoint(use_case=USE_CASE, folder=it.folder, url=f"http://127.0.0.1:{port}")
        store = Store.at(str(folder / "store"))
        try:
            yield World(it, endpoint, ModelRegistry(uri=uri, use_case=USE_CASE), store)
        finally:
            it.models.gate.set()
            server.should_exit = True
            thread.join()
