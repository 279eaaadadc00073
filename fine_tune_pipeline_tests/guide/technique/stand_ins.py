"""Stand-ins at the border of the rooms: a compute whose programs answer by simple rules, and a small use case with its artifacts."""

import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from fine_tune_pipeline.artifacts.examples import Example, read_rows, write_examples, write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.technique.index import Entry
from fine_tune_pipeline.programs import preflight_requests, requests
from fine_tune_pipeline.programs.requests import Contract, Request
from fine_tune_pipeline.resources.compute.base import Compute, ResultT
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.use_case import UseCaseSpec

GIB = 1 << 30
EMBEDDING_WIDTH = 512

SCHEMA = {
    "type": "object",
    "properties": {"intent": {"type": "string", "enum": ["card", "cash"]}, "urgency": {"type": "string", "enum": ["high", "low"]}},
    "required": ["intent", "urgency"],
}

WORDS = {
    "card": ["my card is lost", "the card does not work", "please send a new card", "card was blocked today"],
    "cash": ["the machine kept my cash", "i need cash abroad", "cash came out short", "where is my cash"],
}


class RuleCompute(Compute):
    """Programs by rule: the nearest worked example answers, embeddings count words, a step takes a second.

    What each program was asked is kept as `<record>/<number>-<program>.json`.
    """

    record: str
    memory_gib: float = 24.0
    cores: int = 2
    device: str = "cpu"
    over_long: list[str] = []
    losses: list[float] = [4.0, 1.0]
    experts_at_rest: list[int] = []

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type[ResultT]) -> ResultT:
        program = request.module.rsplit(".", 1)[-1]
        record = Path(self.record)
        record.mkdir(exist_ok=True)
        request.write(record / f"{len(list(record.iterdir())):03d}-{program}.json")
        rules: dict[str, Callable[[Any, RuleCompute], Contract]] = {
            "convert": _convert,
            "inspect": _inspect,
            "embed": embed_words,
            "predict": _predict,
            "preflight": _preflight,
            "train": _train,
        }
        answer = rules[program](request, self)
        assert isinstance(answer, result)
        return answer

    def inventory(self) -> Inventory:
        name = "CPU" if self.device == "cpu" else "NVIDIA H100 80GB HBM3"
        device = Device(kind=self.device, name=name, memory_bytes=int(self.memory_gib * GIB), bfloat16=self.device != "cpu")
        return Inventory(place="test", devices=(device,), cpu_cores=self.cores, memory_bytes=int(self.memory_gib * GIB))

    def asked(self, program: str) -> list[dict[str, Any]]:
        """Requests to one program, in order."""
        return [json.loads(path.read_text()) for path in sorted(Path(self.record).glob(f"*-{program}.json"))]


def use_case(folder: Path, **sections: Any) -> UseCaseSpec:
    """A small extraction use case whose files lie in `folder`; `sections` replace its own."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "answer.schema.json").write_text(json.dumps(SCHEMA))
    spec = {
        "name": "triage",
        "objective": {
            "goal": "Turn a bank customer's message into intent and urgency for routing",
            "task": {"type": "extraction", "schema": "answer.schema.json"},
            "success": [{"metric": "exact_match", "at_least": 0.6}],
        },
        "dataset": {"sources": [{"type": "jsonl", "path": "messages.jsonl"}]},
        **sections,
    }
    return UseCaseSpec.model_validate(spec).at(folder)


def answer(intent: str, urgency: str = "low") -> str:
    """A completion of the small use case."""
    return json.dumps({"intent": intent, "urgency": urgency})


def examples(*, copies: int = 3, prefix: str = "train") -> list[Example]:
    """Rows of both intents, told apart by their words."""
    rows = [(intent, text) for _ in range(copies) for intent, texts in WORDS.items() for text in texts]
    return [
        Example(id=f"{prefix}-{number}", prompt=f"{text} {number}", completion=answer(intent, "high" if "lost" in text else "low"))
        for number, (intent, text) in enumerate(rows)
    ]


def artifact_store(folder: Path) -> ArtifactStore:
    """A store below `folder`."""
    return ArtifactStore(url=str(folder / "store"), reviews=str(folder / "reviews"))


def kept(store: ArtifactStore, asset: str, write: Callable[[Path], None], *, what: str = "given") -> Artifact:
    """A finished upstream artifact whose files `write` makes."""
    plain: Store = store.open()
    with plain.draft("triage", content_of(asset=asset, version=1, what={"test": what}, upstream={})) as draft:
        write(draft.folder)
        return draft.finish(Built())


def kept_dataset(
    store: ArtifactStore, train: list[Example], validation: list[Example], *, test: list[Example] | None = None, what: str = "given"
) -> Artifact:
    """An artifact of `dataset`."""

    def write(folder: Path) -> None:
        write_examples(folder / "train.jsonl", train)
        write_examples(folder / "validation.jsonl", validation)
        write_examples(folder / "test.jsonl", test or [replace(row, id=f"test-{row.id}") for row in validation])

    return kept(store, "dataset", write, what=what)


def kept_index(store: ArtifactStore, train: list[Example]) -> Artifact:
    """An artifact of `retrieval_index` over training rows."""

    def write(folder: Path) -> None:
        write_rows(folder / "texts.jsonl", ({"id": row.id, "text": row.question} for row in train))
        embed_words(requests.EmbedRequest(output=str(folder), texts=str(folder / "texts.jsonl")), None)
        entries = (Entry(row.id, row.question, {"prompt": row.question, "completion": row.completion}) for row in train)
        write_rows(folder / "chunks.jsonl", (vars(entry) for entry in entries))
        (folder / "index.json").write_text(json.dumps({"source": "training answers"}))

    return kept(store, "retrieval_index", write)


def kept_base_model(store: ArtifactStore, model: Path) -> Artifact:
    """An artifact of `base_model` that holds the model folder."""

    def write(folder: Path) -> None:
        shutil.copytree(model, folder / "model")
        (folder / "base_model.json").write_text(json.dumps({"id": "tiny", "context_tokens": 1024}))

    return kept(store, "base_model", write)


def upstream_assets(*names: str) -> list[dg.AssetSpec]:
    """Keys that the assets under test depend on, made elsewhere."""
    return [dg.AssetSpec(["triage", name]) for name in names]


def _convert(request: requests.ConvertRequest, compute: RuleCompute) -> Contract:
    """The GGUF is, in tests, the path of a model folder written into a file."""
    model = Path(request.output) / "model"
    shutil.copytree(Path(Path(request.gguf).read_text()), model)
    folder = read_model_folder(model)
    return requests.ConvertResult(model=str(model), weights_sha256="0", parameters=folder.parameters, seconds=1.0)


def _inspect(request: requests.InspectRequest, compute: RuleCompute) -> Contract:
    folder = read_model_folder(Path(request.model))
    return requests.InspectResult(
        architecture="Tiny",
        parameters=folder.parameters,
        embedding_parameters=folder.architecture.embedding_parameters,
        hidden_size=folder.architecture.hidden,
        layers=folder.architecture.layers,
        vocabulary=folder.architecture.vocabulary,
        context_tokens=folder.context,
        has_chat_template=False,
        weights_sha256=folder.hashes()["model.safetensors"],
        load_seconds=0.1,
    )


def embed_words(request: requests.EmbedRequest, compute: Compute | None) -> requests.EmbedResult:
    """Vectors that count the words of the texts, each word in its own place of many, so that those of two calls can be compared."""
    texts = [row["text"] for row in read_rows(Path(request.texts))]
    counts = np.zeros((len(texts), EMBEDDING_WIDTH), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            counts[row, zlib.crc32(word.encode()) % EMBEDDING_WIDTH] += 1
    path = Path(request.output) / "vectors.npy"
    np.save(path, counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1))
    return requests.EmbedResult(vectors=str(path), rows=len(texts), width=EMBEDDING_WIDTH, encoder="words", encoder_sha256="0", seconds=0.1)


def _predict(request: requests.PredictRequest, compute: RuleCompute) -> Contract:
    return requests.PredictResult(jobs=tuple(_job(job) for job in request.jobs), load_seconds=0.1, peak_memory_bytes=GIB)


def _job(job: requests.PredictJob) -> requests.PredictedJob:
    def nearest(row: dict[str, Any]) -> str:
        words = set(row["prompt"].split())
        worked = [shot.model_dump() for shot in job.shots] + [passage for passage in row.get("context", []) if "completion" in passage]
        near = max(worked, key=lambda shot: len(words & set(shot["prompt"].split())), default=None)
        return near["completion"] if near else "I cannot say."

    rows = read_rows(Path(job.prompts))
    write_rows(Path(job.output), ({"id": row["id"], "text": nearest(row), "tokens": 3} for row in rows))
    return requests.PredictedJob(
        name=job.name, rows=len(rows), prompt_tokens=10 * len(rows), new_tokens=3 * len(rows), seconds=2.0 * len(rows)
    )


def _preflight(request: preflight_requests.PreflightRequest, compute: RuleCompute) -> Contract:
    return preflight_requests.PreflightResult(
        device=request.placement.device,
        versions={"torch": "2.13.0"},
        cpu_cores=compute.cores,
        memory_total_bytes=int(compute.memory_gib * GIB),
        memory_available_bytes=int(compute.memory_gib * GIB),
        disk_free_bytes=10 * GIB,
        rows=sum(len(read_rows(Path(path))) for path in (request.train, request.validation) if path is not None),
        longest_tokens=40,
        over_long=tuple(compute.over_long),
        tokens_p50=20,
        tokens_p95=32,
        batch_rows=request.placement.micro_batch,
        step_seconds=1.0,
        tokens_per_second=46.0,
        peak_memory_bytes=GIB,
        loss=4.0,
        bfloat16_speedup=0.2,
    )


def _train(request: requests.TrainRequest, compute: RuleCompute) -> Contract:
    output = Path(request.output)
    (output / "adapter").mkdir()
    (output / "adapter" / "adapter_config.json").write_text("{}")
    before, after = compute.losses
    steps = [{"step": step, "loss": before - step * (before - after) / 10, "learning_rate": 1e-3} for step in range(1, 11)]
    write_rows(output / "curve.jsonl", steps)
    return requests.TrainResult(
        adapter=str(output / "adapter"),
        adapter_sha256="0",
        steps=10,
        rows=len(read_rows(Path(request.train))),
        tokens=1000,
        labelled_tokens=300,
        seconds=10.0,
        tokens_per_second=100.0,
        first_loss=before,
        final_loss=after,
        validation_losses=((0, before), (10, after)),
        peak_memory_bytes=GIB,
        trainable_parameters=5,
        curve=str(output / "curve.jsonl"),
        mlflow_run_id="run1",
        fixed_memory_bytes=GIB // 2,
        most_tokens=200,
        most_labelled=60,
        passes=10,
        passes_rows=80,
        expert_load=_load(compute) if request.technique.expert_rank else (),
    )


def _load(compute: RuleCompute) -> tuple[requests.LayerLoad, ...]:
    shares = (0.25, 0.25, 0.25, 0.25)
    return (requests.LayerLoad(layer=0, before=shares, after=(0.5, 0.5, 0.0, 0.0), still=tuple(compute.experts_at_rest)),)
