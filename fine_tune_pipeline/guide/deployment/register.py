"""What is registered: the adapter that passed its evaluation, with hashes that say exactly which weights these are."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.deployment.registry import ADAPTER_SHA256, FINGERPRINT, ModelRegistry
from fine_tune_pipeline.guide.deployment.served_index import retrieval_of
from fine_tune_pipeline.guide.technique.systems import max_new_tokens
from fine_tune_pipeline.guide.training.adapter import read_train_result
from fine_tune_pipeline.programs.requests import Contract
from fine_tune_pipeline.programs.serving.contract import CHALLENGER, CHAMPION, OfferedVersion, Retrieval
from fine_tune_pipeline.spec.base import unset

FILE = "model.json"


@dataclass(frozen=True)
class Sources:
    """The artifacts behind a registered version. All of them have passed their checks."""

    adapter: Artifact
    base_model: Artifact
    dataset: Artifact
    evaluation_report: Artifact
    human_evaluation: Artifact
    retrieval_index: Artifact | None = None


class RegisteredModel(Contract):
    """`model.json`: one version and what it is made of. `fingerprint` is the adapter's; `retrieval` is there if it was trained with what is
    looked up."""

    name: str
    version: int
    fingerprint: str
    adapter_sha256: str
    base_model: str
    base_sha256: str
    max_new_tokens: int
    retrieval: Retrieval | None = Field(default=None, exclude_if=unset)


def build_registered_model(use_case: str, sources: Sources, *, registry: ModelRegistry, folder: Path) -> Built:
    """Register the adapter as `challenger` (unless it is the champion already), and write `model.json`.

    Raises:
        OtherIndex, DamagedIndex: it was trained with what is looked up, and that is not here any more.
    """
    trained = read_train_result(sources.adapter)
    index = sources.retrieval_index
    retrieval = None if index is None else retrieval_of(index, adapter=sources.adapter)
    base = sources.base_model.json("base_model.json")
    tags = {
        "use_case": use_case,
        FINGERPRINT: sources.adapter.fingerprint,
        ADAPTER_SHA256: trained.adapter_sha256,
        "base_sha256": base["weights_sha256"],
        "base_model": base["id"],
        "evaluation_fingerprint": sources.evaluation_report.fingerprint,
        "human_evaluation_fingerprint": sources.human_evaluation.fingerprint,
        **({} if retrieval is None else {"retrieval_index": retrieval.fingerprint, "retrieval_sha256": retrieval.sha256}),
    }
    version = registry.register(sources.adapter.file("adapter"), run_id=trained.mlflow_run_id, tags=tags)
    if registry.aliases().get(CHAMPION) != version:
        registry.point(CHALLENGER, version)
    model = RegisteredModel(
        name=use_case,
        version=version,
        fingerprint=sources.adapter.fingerprint,
        adapter_sha256=trained.adapter_sha256,
        base_model=base["id"],
        base_sha256=base["weights_sha256"],
        max_new_tokens=max_new_tokens([example.completion for example in read_examples(sources.dataset.file("train.jsonl"))]),
        retrieval=retrieval,
    )
    (folder / FILE).write_text(json.dumps(model.model_dump(), indent=2), encoding="utf-8")
    return Built(metadata={**model.model_dump(), "registry": registry.uri, "aliases": registry.aliases()})


def read_registered(artifact: Artifact) -> RegisteredModel:
    """What an artifact of `registered_model` says."""
    return RegisteredModel.read(artifact.file(FILE))


def offer(model: RegisteredModel, adapter: Artifact, *, index: Artifact | None = None) -> OfferedVersion:
    """The version as it is offered to the endpoint, with the index that it was registered with, if there is one."""
    return OfferedVersion(
        version=model.version,
        adapter=str(adapter.file("adapter")),
        adapter_sha256=model.adapter_sha256,
        base_sha256=model.base_sha256,
        max_new_tokens=model.max_new_tokens,
        index=None if index is None else str(index.folder),
        retrieval=model.retrieval,
    )
