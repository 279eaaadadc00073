"""A store with what an export is made of: a tiny base model, an adapter of it, data with its card, an evaluation."""

import importlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from fine_tune_pipeline.artifacts.examples import Example, write_examples
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.guide.dataset.publishing.card import card
from fine_tune_pipeline.guide.dataset.publishing.split import Split
from fine_tune_pipeline.guide.dataset.steps import Step
from fine_tune_pipeline.guide.deployment.assets import exported_model
from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.programs.requests import Hyperparameters, Request, Technique, TrainResult
from fine_tune_pipeline.resources.compute.base import Compute, ResultT
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT
from fine_tune_pipeline_tests.guide.dataset.make import use_case as fruit
from fine_tune_pipeline_tests.guide.dataset.publishing.test_publish import STEPS
from fine_tune_pipeline_tests.served import tiny_adapter
from fine_tune_pipeline_tests.small_training import Recorder
from fine_tune_pipeline_tests.tiny import tiny_model

USE_CASE = "fruit"
LICENCE = "LicenseRef-Llama-3.2-Community"
RANK = 4


class HereCompute(Compute):
    """Runs programs in this process."""

    cores: int = 1

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type[ResultT]) -> ResultT:
        answer = importlib.import_module(request.module).run(request, Recorder())
        assert isinstance(answer, result)
        return answer

    def inventory(self) -> Inventory:
        cpu = Device(kind="cpu", name="CPU", memory_bytes=1 << 30, bfloat16=False)
        return Inventory(place="here", devices=(cpu,), cpu_cores=self.cores, memory_bytes=1 << 30)


def use_case(folder: Path, *, base_model: Mapping[str, Any] | None = None, **export: Any) -> UseCaseSpec:
    """Apples and pears, with these fields under `deployment.export`."""
    content = fruit(folder).model_dump(mode="json", by_alias=True, exclude_unset=True)
    return UseCaseSpec.model_validate({**content, "base_model": base_model or own_base(), "deployment": {"export": export}}).at(folder)


def own_base(kind: str = "local") -> dict[str, Any]:
    """The section `base_model`: a folder of one's own, or a repository of the hub."""
    where = {"path": "nowhere"} if kind == "local" else {"repo": "meta/tiny", "revision": "a" * 40}
    return {"candidates": [{"type": kind, "id": "tiny", "licence": LICENCE, **where}], "accept_licences": [LICENCE]}


def examples(part: str, count: int) -> list[Example]:
    return [
        Example(id=f"{part}-{number}", prompt=f"is {part} {number} red", completion=("apple", "pear")[number % 2])
        for number in range(count)
    ]


def train_result(adapter: Path) -> TrainResult:
    facts: dict[str, Any] = {
        "adapter": "adapter", "adapter_sha256": weights_sha256(adapter), "steps": 20, "rows": 12, "tokens": 900, "labelled_tokens": 200,
        "seconds": 60.0, "tokens_per_second": 15.0, "first_loss": 3.0, "final_loss": 0.3, "validation_losses": ((0, 3.125), (20, 0.25)),
        "peak_memory_bytes": 1 << 30, "trainable_parameters": 4321, "curve": "curve.jsonl",
    }  # fmt: skip
    return TrainResult(**facts)


REPORT = {
    "n": 150,
    "recommendation": {"sentence": "Fine-tuning pays: 82.0% of the cases are right."},
    "table_metrics": ["exact_match"],
    "systems": {
        "base_few_shot": {"exact_match": {"estimate": 0.25, "low": 0.125, "high": 0.375, "method": "wilson"}},
        "fine_tuned": {"exact_match": {"estimate": 0.82, "low": 0.75, "high": 0.875, "method": "wilson"}},
    },
    "verdicts": [{"criterion": "exact_match at least 0.5", "verdict": "met", "reason": "at least 0.77"}],
}


@dataclass
class ExportWorld:
    """The store, and where models for it lie."""

    folder: Path
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store.at(str(self.folder / "store"))

    @property
    def resources(self) -> dict[str, Any]:
        return {"store": ArtifactStore(url=str(self.folder / "store"), reviews=str(self.folder / "reviews")), "compute": HereCompute()}

    def fill(self, *, chat: bool = False) -> tuple[Path, Path]:
        """Everything up to the adapter; gives back the folders of base model and adapter."""
        base = tiny_model(self.folder / "base", architecture="llama", chat=chat)
        (base / "LICENSE.txt").write_text("the terms", encoding="utf-8")
        facts = {
            "id": "tiny", "licence": LICENCE, "commercial": "conditions", "obligations": "as the table says",
            "source": {"model.safetensors": "c" * 64}, "weights_sha256": weights_sha256(base),
        }  # fmt: skip
        self.keep("base_model", {"model": base, "base_model.json": facts})
        self.keep_dataset()
        return base, self.train(base)

    def keep_dataset(self) -> None:
        parts = Split(examples("train", 12), examples("validation", 6), examples("test", 4), [], by_held_out=False)
        content = card([*STEPS, Step("split", 22, 22)], parts, use_case=USE_CASE, task=FRUIT, spec=fruit(self.folder).dataset)
        self.keep("dataset", {"card.json": content, **{f"{name}.jsonl": rows for name, rows in parts.parts().items()}})

    def train(self, base: Path, *, seed: int = 1, technique: str = "lora", index: Artifact | None = None) -> Path:
        """Another adapter, as the training would have left it, with passages of `index` or without."""
        trained = self.folder / f"trained-{seed}-{technique}"
        if technique == "full":
            tiny_model(trained, architecture="llama", seed=seed)
        else:
            tiny_adapter(trained, base, seed=seed, rank=RANK)
        what = {
            "technique": Technique(type=technique, rank=RANK),  # type: ignore[arg-type]
            "training": Hyperparameters(learning_rate=0.002, epochs=2.0, effective_batch=8, max_length=96, seed=seed),
            "training_plan.dtype": "float32",
            "dataset.format.style": "plain",
        }
        upstream = {} if index is None else {"retrieval_index": index}
        files = {"adapter": trained, "train.json": json.loads(train_result(trained).model_dump_json())}
        self.keep("adapter", files, what=what, upstream=upstream)
        return trained

    def evaluate(self, *, passed: bool = True) -> None:
        """An evaluation of the current adapter."""
        adapter = self.store.current(USE_CASE, "adapter")
        check = Check(name="meets_objective", passed=passed, description="exact_match at least 0.5")
        self.keep("evaluation_report", {"report.json": REPORT}, upstream={"adapter": adapter}, checks=[check])

    def keep(
        self,
        asset: str,
        files: Mapping[str, Any],
        *,
        what: Mapping[str, Any] | None = None,
        upstream: Mapping[str, Artifact] | None = None,
        checks: list[Check] | None = None,
    ) -> Artifact:
        """An artifact with these files, made current: folders are copied, examples become JSONL, the rest JSON."""
        content = content_of(asset=asset, version=1, what=what or {}, upstream=upstream or {})
        with self.store.draft(USE_CASE, content) as draft:
            for name, value in files.items():
                if isinstance(value, Path):
                    shutil.copytree(value, draft.folder / name)
                elif isinstance(value, list):
                    write_examples(draft.folder / name, value)
                else:
                    (draft.folder / name).write_text(json.dumps(value), encoding="utf-8")
            return draft.finish(Built(checks=checks or []))

    def export(self, spec: UseCaseSpec) -> tuple[dg.ExecuteInProcessResult, Artifact]:
        result = dg.materialize([exported_model(spec)], resources=self.resources, raise_on_error=False)
        return result, self.store.current(USE_CASE, "exported_model", passed=False)
