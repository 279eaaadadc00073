"""The candidates side by side: licence, size, context, memory; the first that passes all rules is taken."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.guide.base_model.catalogue import (
    Architecture,
    Catalogue,
    CatalogueModel,
    Licence,
    Use,
    catalogue,
    model_named,
)
from fine_tune_pipeline.guide.base_model.catalogue_files import catalogue_of
from fine_tune_pipeline.guide.base_model.chosen import NotInTheModel, own_technique, with_tokens
from fine_tune_pipeline.guide.base_model.hosted import hosted_refusals
from fine_tune_pipeline.guide.base_model.hub import look_at_hub
from fine_tune_pipeline.guide.base_model.memory import GIB, training_memory
from fine_tune_pipeline.guide.base_model.mlflow_model import MlflowPlace
from fine_tune_pipeline.guide.base_model.model_files import UnusableModel
from fine_tune_pipeline.guide.base_model.offers import completed
from fine_tune_pipeline.guide.base_model.reaching import NoAnswer
from fine_tune_pipeline.guide.base_model.sources import Own, WeightsSource, licence_warning, look_at, place_of, unreachable
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.programs.training.together import not_in_parts
from fine_tune_pipeline.spec.base_model import PinnedModel
from fine_tune_pipeline.spec.hosted import ApiModel
from fine_tune_pipeline.spec.technique import Auto, TechniqueSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.inventory import Inventory

CHARACTERS_PER_TOKEN = 2
"""Careful: English prose has about four, JSON and other languages fewer."""

LABELLED_SHARE = 0.25
"""Of a row's tokens, taken as the answer while no data has been seen."""

Refusal = tuple[str, str]
"""(rule, sentence): rule is one of licence, weights, unanswered, context, memory, technique; of a hosted model, settings, shutdown too."""

UNANSWERED = "unanswered"
"""The rule of a candidate that could not be looked at, for a reason that lies outside of it."""


class UndecidedChoice(Exception):
    """A candidate that could not be looked at stands before the one that would be taken."""


@dataclass(frozen=True)
class Demands:
    """What the use case asks of a base model, and the catalogue that it chooses from. `memory_bytes` has one process of a training, which
    holds one of the `parts` of the model."""

    accepted: tuple[str, ...]
    tokens: int
    technique: TechniqueSpec
    memory_bytes: int
    device: str
    added_tokens: int = 0
    parts: int = 1
    use: Use = "commercial"
    known: Catalogue = field(default_factory=catalogue)

    def techniques(self, model: Architecture) -> tuple[Technique, ...]:
        """Those that may be used for this model: full, LoRA and QLoRA, or the user's own with the parts that it chooses.

        Raises:
            NotInTheModel: the model does not have these parts.
        """
        own = own_technique(self.technique, model)
        full, adapters = Technique(type="full"), [Technique(type="lora"), Technique(type="qlora")]
        offered = [technique for technique in [*adapters, full] if self.parts == 1 or not_in_parts(technique) is None]
        named = offered if isinstance(self.technique, Auto) else [own or full]
        # Of added tokens only the number counts for memory and time.
        return tuple(with_tokens(technique, tuple(range(self.added_tokens))) for technique in named)


@dataclass(frozen=True)
class Facts:
    """What is known of a model before it is loaded. `source` is where its weights come from, None when they cannot be reached; `known_from`
    says where the numbers were read; those of the catalogue are `promised`: the weights must have them."""

    architecture: Architecture
    parameters: int
    context: int
    source: WeightsSource | None
    known_from: str
    promised: bool = False

    @property
    def weights(self) -> str:
        """Where the weights come from, for a table."""
        return place_of(self.source)


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
    def warning(self) -> str | None:
        """What the user should know although the candidate may be taken."""
        return licence_warning(self.facts.source if self.facts else None, self.licence.id)

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
            "warning": self.warning,
        }


def demands(spec: UseCaseSpec, inventory: "Inventory") -> Demands:
    """What the use case asks, on the hardware at hand.

    Raises:
        InvalidUseCase: a file under base_model.catalogue has mistakes.
    """
    device = inventory.devices[0]
    longest = spec.training.max_length
    tokens = longest if isinstance(longest, int) else spec.dataset.clean.max_characters // CHARACTERS_PER_TOKEN
    return Demands(
        accepted=tuple(spec.base_model.accept_licences),
        tokens=tokens,
        technique=spec.technique,
        added_tokens=len(spec.base_model.added_tokens),
        parts=inventory.parts,
        memory_bytes=int(inventory.bytes_of_one * (1 - spec.environment.memory_headroom)),
        device=device.kind,
        use=spec.base_model.use,
        known=catalogue_of(spec),
    )


def judge(spec: UseCaseSpec, wanted: Demands, mlflow: MlflowPlace | None = None) -> list[Candidate]:
    """Every candidate of the use case, in its order, with its refusals.

    Args:
        mlflow: for candidates that MLflow holds; without it they are not looked at.

    Raises:
        UnknownModel: a candidate is not in the catalogue.
    """
    return [_judged(entry, spec, wanted, mlflow) for entry in spec.base_model.candidates]


def refuse_undecided(candidates: Sequence[Candidate]) -> None:
    """A network that is down for an hour must not change which model is trained.

    Raises:
        UndecidedChoice: says what to do.
    """
    for candidate in candidates:
        if not candidate.refusals:
            return
        if all(rule == UNANSWERED for rule, _ in candidate.refusals):
            raise UndecidedChoice(
                f"{candidate.id}: {candidate.verdict}. It may be the one to take, so none after it is; take it out of "
                "base_model.candidates if you want to go on without it."
            )


def on_paper(model: CatalogueModel, wanted: Demands) -> Candidate:
    """A model of the catalogue by licence, context and memory alone, wherever its weights may be."""
    return _candidate(model.id, wanted.known.licence(model.licence), _facts(model, None), wanted, found=[])


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


def _judged(entry: "str | PinnedModel | Own | ApiModel", spec: UseCaseSpec, wanted: Demands, mlflow: MlflowPlace | None) -> Candidate:
    if isinstance(entry, str):
        return _known(model_named(entry, wanted.known), wanted)
    if isinstance(entry, ApiModel):
        return _hosted(completed(entry, wanted.known), spec, wanted)
    if isinstance(entry, PinnedModel):
        return _pinned(entry, wanted)
    return _own(entry, spec, wanted, mlflow)


def _hosted_reason(chosen: Candidate, entry: ApiModel, *, before: int) -> str:
    others = f" ({before} before it refused)" if before else ""
    return (
        f"{chosen.id} is the first candidate that passes{others}: its terms {chosen.licence.id} are accepted, and it is tuned and asked at "
        f"{entry.base_url}, so it takes no memory here."
    )


def _hosted(entry: ApiModel, spec: UseCaseSpec, wanted: Demands) -> Candidate:
    licence = wanted.known.licence(entry.licence)
    refusals = [*_licence_refusals(licence, wanted), *hosted_refusals(entry, spec)]
    if entry.context_tokens < wanted.tokens:
        refusals.append(("context", f"its context of {entry.context_tokens} tokens is below the {wanted.tokens} of the longest row"))
    return Candidate(entry.id, licence, None, {}, tuple(refusals), hosted=entry)


def _known(model: CatalogueModel, wanted: Demands) -> Candidate:
    missing = unreachable(model)
    refusals: list[Refusal] = [("weights", missing)] if missing else []
    return _candidate(model.id, wanted.known.licence(model.licence), _facts(model, model.package), wanted, found=refusals)


def _pinned(entry: PinnedModel, wanted: Demands) -> Candidate:
    """The catalogue's facts, with weights from the hub."""
    model = model_named(entry.id, wanted.known)
    licence = wanted.known.licence(model.licence)
    if _licence_refusals(licence, wanted):
        return _candidate(model.id, licence, _facts(model, None), wanted, found=[])
    try:
        return _candidate(model.id, licence, _facts(model, look_at_hub(model.hub, entry.revision)), wanted, found=[])
    except (UnusableModel, NoAnswer) as error:
        return _candidate(model.id, licence, _facts(model, None), wanted, found=[_unseen(error)])


def _own(entry: Own, spec: UseCaseSpec, wanted: Demands, mlflow: MlflowPlace | None) -> Candidate:
    licence = wanted.known.licence(entry.licence)
    if entry.type in ("hub", "mlflow") and _licence_refusals(licence, wanted):
        # Nothing is asked of another machine for a model that may not be used.
        return _candidate(entry.id, licence, None, wanted, found=[])
    try:
        found = look_at(entry, spec, mlflow)
    except (UnusableModel, NoAnswer) as error:
        return _candidate(entry.id, licence, None, wanted, found=[_unseen(error)])
    facts = Facts(found.architecture, found.parameters, found.context, source=found, known_from="its own files")
    return _candidate(entry.id, licence, facts, wanted, found=[])


def _facts(model: CatalogueModel, source: WeightsSource | None) -> Facts:
    return Facts(
        architecture=model.architecture,
        parameters=model.parameters,
        context=model.context,
        source=source,
        known_from=f"{model.facts.source}, {model.facts.as_of}",
        promised=True,
    )


def _unseen(error: UnusableModel | NoAnswer) -> Refusal:
    return (UNANSWERED if isinstance(error, NoAnswer) else "weights", str(error))


def _candidate(id: str, licence: Licence, facts: Facts | None, wanted: Demands, *, found: list[Refusal]) -> Candidate:
    refusals = [*_licence_refusals(licence, wanted), *found]
    if facts is None:
        return Candidate(id, licence, None, {}, tuple(refusals))
    try:
        techniques = wanted.techniques(facts.architecture)
    except NotInTheModel as error:
        return Candidate(id, licence, facts, {}, (*refusals, ("technique", str(error))))
    memory: dict[str, int] = {technique.type: _one_row_bytes(facts.architecture, technique, wanted) for technique in techniques}
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
    if licence.allows(wanted.use) == "fail":
        instead = "" if licence.research == "fail" else ", or, if it is for research alone, write base_model.use: research"
        return [("licence", f"{licence.id}: {licence.obligations}; choose a model with another licence{instead}")]
    if licence.id in wanted.accepted:
        return []
    accepted = ", ".join([*wanted.accepted, licence.id])
    said = f"its licence is not accepted: read {licence.id} ({licence.obligations}), then write base_model.accept_licences: [{accepted}]"
    return [("licence", said)]


def _one_row_bytes(architecture: Architecture, technique: Technique, wanted: Demands) -> int:
    return training_memory(
        architecture,
        technique,
        number_bytes=4 if wanted.device == "cpu" else 2,
        tokens=wanted.tokens,
        labelled_tokens=int(wanted.tokens * LABELLED_SHARE),
        checkpointing=True,
        device=wanted.device,
        parts=wanted.parts,
    ).total
