"""What is registered: the adapter that passed its evaluation, with hashes that say exactly which weights these are."""

import json
from dataclasses import dataclass
from pathlib import Path

from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.deployment.registry import ADAPTER_SHA256, FINGERPRINT, ModelRegistry
from fine_tune_pipeline.guide.technique.systems import max_new_tokens
from fine_tune_pipeline.guide.training.adapter import read_train_result
from fine_tune_pipeline.programs.requests import Contract
from fine_tune_pipeline.programs.serving.contract import CHALLENGER, CHAMPION, OfferedVersion
from fine_tune_pipeline.spec.use_case import UseCaseSpec

FILE = "model.json"


class NotServedYet(Exception):
    """The fine-tuned model was trained with passages that nothing looks up for a request."""


def refuse_retrieved(spec: UseCaseSpec) -> None:
    """A model that expects passages would answer worse than it was evaluated.

    Raises:
        NotServedYet: the use case trains with `dataset.format.context: retrieved`.
    """
    if spec.dataset.format.context == "retrieved":
        raise NotServedYet(
            f"{spec.name}: dataset.format.context is retrieved, and the endpoint has no retrieval_index to look passages up in, so it "
            "would ask the model without them; set context: none and train again, or serve adapter and retrieval_index yourself"
        )


@dataclass(frozen=True)
class Sources:
    """The artifacts behind a registered version. All of them have passed their checks."""

    adapter: Artifact
    base_model: Artifact
    dataset: Artifact
    evaluation_report: Artifact
    human_evaluation: Artifact


class RegisteredModel(Contract):
    """`model.json`: one version and what it is made of. `fingerprint` is the adapter's."""

    name: str
    version: int
    fingerprint: str
    adapter_sha256: str
    base_model: str
    base_sha256: str
    max_new_tokens: int


def build_registered_model(use_case: str, sources: Sources, *, registry: ModelRegistry, folder: Path) -> Built:
    """Register the adapter as `challenger` (unless it is the champion already), and write `model.json`."""
    trained = read_train_result(sources.adapter)
    base = sources.base_model.json("base_model.json")
    tags = {
        "use_case": use_case,
        FINGERPRINT: sources.adapter.fingerprint,
        ADAPTER_SHA256: trained.adapter_sha256,
        "base_sha256": base["weights_sha256"],
        "base_model": base["id"],
        "evaluation_fingerprint": sources.evaluation_report.fingerprint,
        "human_evaluation_fingerprint": sources.human_evaluation.fingerprint,
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
    )
    (folder / FILE).write_text(json.dumps(model.model_dump(), indent=2), encoding="utf-8")
    return Built(metadata={**model.model_dump(), "registry": registry.uri, "aliases": registry.aliases()})


def read_registered(artifact: Artifact) -> RegisteredModel:
    """What an artifact of `registered_model` says."""
    return RegisteredModel.read(artifact.file(FILE))


def offer(model: RegisteredModel, adapter: Artifact) -> OfferedVersion:
    """The version as it is offered to the endpoint."""
    return OfferedVersion(
        version=model.version,
        adapter=str(adapter.file("adapter")),
        adapter_sha256=model.adapter_sha256,
        base_sha256=model.base_sha256,
        max_new_tokens=model.max_new_tokens,
    )
