"""A whole endpoint without weights: real queue, table, log and routes; a model that answers `<name> says <prompt>`."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.programs.decoding import Generated
from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.answer_shape import AnswerShape
from fine_tune_pipeline.programs.serving.contract import OfferedVersion, SyncRequest
from fine_tune_pipeline.programs.serving.http_gate import Keys
from fine_tune_pipeline.programs.serving.http_routes import make_app
from fine_tune_pipeline.programs.serving.indexes import Indexes, QuestionEncoder
from fine_tune_pipeline.programs.serving.model_thread import ModelThread
from fine_tune_pipeline.programs.serving.service import Limits, Service
from fine_tune_pipeline.programs.serving.traffic_writer import Scrubber, TrafficWriter
from fine_tune_pipeline.programs.serving.versions import Versions
from fine_tune_pipeline_tests.small_index import ENCODER, retrieval, word_vectors

USER_KEY = "user-key-of-the-tests"
ADMIN_KEY = "admin-key-of-the-tests"
BASE_SHA256 = "b" * 64
WAIT = 20.0


class SpokenModels:
    """Stands for the weights: knows which versions are loaded, and echoes. `gate` can hold a batch back; `refuse` names a bad version."""

    def __init__(self) -> None:
        self.loaded: dict[str, Path] = {}
        self.refuse: str | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def load(self, name: str, folder: Path) -> None:
        if name == self.refuse:
            raise ValueError("size mismatch")
        self.loaded[name] = folder

    def unload(self, name: str) -> None:
        self.loaded.pop(name, None)

    def generate(self, name: str, prompts: Sequence[Sequence[int]], most: int) -> list[Generated]:
        self.entered.set()
        assert self.gate.wait(WAIT)
        texts = ["".join(map(chr, prompt)) for prompt in prompts]
        if "poison" in texts:
            raise RuntimeError("out of memory")
        return [Generated(text=f"{name} says {text}", tokens=min(3, most), logprob=-0.5, finished=most > 1) for text in texts]


def characters(asked: Asked, system: str) -> list[int]:
    """One token a character; what was looked up stands in brackets before the question."""
    context = "".join(f"[{passage['text']}] " for passage in asked.context)
    return [ord(character) for character in context + system + asked.text]


def fake_adapter(folder: Path, *, content: str) -> Path:
    """Files that have a hash; nobody loads them."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(content, encoding="utf-8")
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    return folder


def offered(version: int, adapter: Path, *, base_sha256: str = BASE_SHA256) -> OfferedVersion:
    return OfferedVersion(
        version=version, adapter=str(adapter), adapter_sha256=weights_sha256(adapter), base_sha256=base_sha256, max_new_tokens=8
    )


@dataclass
class Stand:
    """The parts of one endpoint under test."""

    folder: Path
    models: SpokenModels
    thread: ModelThread[Generated]
    versions: Versions
    writer: TrafficWriter
    service: Service
    log: TrafficLog
    answers: list[httpx.Response] = field(default_factory=list)

    def promote(self, version: int, *, content: str | None = None, index: Path | None = None) -> None:
        """Load a version, with what it looks up, and make it champion."""
        adapter = fake_adapter(self.folder / f"offered-{version}", content=content or f"weights {version}")
        whole = offered(version, adapter)
        if index is not None:
            whole = whole.model_copy(update={"index": str(index), "retrieval": retrieval(index)})
        self.versions.sync(SyncRequest(versions=(whole,), aliases={"champion": version}))

    def client(self, key: str | None = USER_KEY) -> httpx.AsyncClient:
        """Speaks to the app in this process; errors of ours come as responses, as over a socket."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(app=make_app(self.service, Keys(user=USER_KEY, admin=ADMIN_KEY)), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://endpoint", headers=headers, timeout=WAIT)


def clean(text: str) -> str:
    return text.replace("Ann Smith", "<PERSON>")


def scrubber(clean: Callable[[str], str], *, name: str = "test") -> Scrubber:
    """One that knows only single texts."""
    return Scrubber(name, lambda texts: [clean(text) for text in texts])


@contextmanager
def stand(
    folder: Path, *, limits: Limits | None = None, shape: AnswerShape | None = None, style: str = "plain", conversations: bool = False
) -> Iterator[Stand]:
    """An endpoint that is gone afterwards, threads included."""
    folder.mkdir(exist_ok=True)
    models, bounds = SpokenModels(), limits or Limits()
    thread = ModelThread(models.generate, batch_rows=bounds.batch_rows, queue_limit=bounds.waiting)
    thread.start()
    indexes = Indexes(folder, encoder=lambda: QuestionEncoder(name=ENCODER, embed=word_vectors))
    versions = Versions(folder, use_case="bank", base_sha256=BASE_SHA256, base_new_tokens=8, models=models, thread=thread, indexes=indexes)
    versions.restore()
    log = TrafficLog.at(folder)
    writer = TrafficWriter(log, scrubber=lambda: scrubber(clean), salt=b"salt")
    service = Service(
        use_case="bank",
        format=PromptFormat.model_validate({"style": style}),
        context_tokens=1000,
        encode=characters,
        versions=versions,
        indexes=indexes,
        thread=thread,
        writer=writer,
        shape=shape or AnswerShape(),
        limits=bounds,
        conversations=conversations,
    )
    yield Stand(folder, models, thread, versions, writer, service, log)
    models.gate.set()
    thread.drain()
    assert thread.join(WAIT)
    writer.close(WAIT)


def ask(prompt: str = "hello", **more: Any) -> dict[str, Any]:
    """A body for chat completions."""
    return {"messages": [{"role": "user", "content": prompt}], **more}
