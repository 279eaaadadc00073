"""The catalogue of base models: facts as data, and what can be computed from them."""

import difflib
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fine_tune_pipeline.guide.base_model.price import STALE_DAYS

Verdict = Literal["pass", "conditions", "fail", "unknown"]
Use = Literal["commercial", "research"]

SHIPPED = ("small_models.yaml", "large_models.yaml", "hosted_models.yaml", "licences.yaml")

COUNT_TOLERANCE = 0.01
"""Of the published count: norms and biases are left out of the computed one."""

UNKNOWN_TERMS = "these terms are not in the table: what they ask of you is yours to know"


class UnknownModel(ValueError):
    """The catalogue has no model of that id."""


class Fact(BaseModel):
    """Base of the catalogue's parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(Fact):
    """A row that is told by its id."""

    id: str = Field(min_length=1)


class Architecture(Fact):
    """Numbers of a decoder with grouped-query attention and gated MLPs, as nearly all open models are.

    With `experts`, the layers after the first `dense_layers` have, in the place of one MLP, a router and that many small ones, of which
    each token visits `experts_per_token`.
    """

    hidden: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    mlp_width: int = Field(gt=0, description="Of the MLP in a layer without experts.")
    vocabulary: int = Field(gt=0)
    tied: bool = Field(description="The output head is the embedding.")
    experts: int = Field(default=0, ge=0, description="Routed experts of a layer; 0 for a dense model.")
    experts_per_token: int = Field(default=0, ge=0)
    expert_width: int = Field(default=0, ge=0, description="Of one routed expert's MLP.")
    shared_expert_width: int = Field(default=0, ge=0, description="Of the experts that every token visits, together.")
    dense_layers: int = Field(default=0, ge=0, description="Layers without experts in a model that has them.")
    family: str = Field(default="", description="The `model_type` of its config.json: families differ in their norms.")

    @model_validator(mode="after")
    def _experts_belong_together(self) -> Self:
        if not self.experts and (self.experts_per_token or self.expert_width or self.shared_expert_width or self.dense_layers):
            raise ValueError("experts is 0, so experts_per_token, expert_width, shared_expert_width and dense_layers must be left out")
        if self.experts and not (0 < self.experts_per_token <= self.experts and self.expert_width and self.dense_layers < self.layers):
            raise ValueError("with experts, want experts_per_token from 1 to experts, an expert_width, and dense_layers below layers")
        return self

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def expert_layers(self) -> int:
        """Layers that have experts."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def body_parameters(self) -> int:
        """Of the layers' matrices: query, output, key, value, and the three of each MLP. Norms and biases are below 0.1 %."""
        return self._body(experts=self.experts)

    @property
    def active_body_parameters(self) -> int:
        """Of the layers' matrices that one token passes through."""
        return self._body(experts=self.experts_per_token)

    @property
    def largest_layer_parameters(self) -> int:
        """Of the matrices of one layer, the largest if some have experts."""
        h = self.hidden
        attention = 2 * h * self.query_width + 2 * h * self.key_width
        experts = self.experts * (h + 3 * h * self.expert_width) + 3 * h * self.shared_expert_width
        return attention + max(experts, 0 if self.expert_layers == self.layers else 3 * h * self.mlp_width)

    @property
    def expert_parameters(self) -> int:
        """Of all routed experts."""
        return self.expert_layers * self.experts * 3 * self.hidden * self.expert_width

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding, and of the output head where that is another matrix."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.body_parameters + self.embedding_parameters

    @property
    def active_parameters(self) -> int:
        """Those of the layers that one token passes through, and the embeddings: the count that publishers give."""
        return self.active_body_parameters + self.embedding_parameters

    def lora_parameters(self, rank: int) -> int:
        """Of adapters beside every matrix of each layer but the router and the routed experts."""
        h, q, k = self.hidden, self.query_width, self.key_width
        attention = self.layers * (2 * (h + q) + 2 * (h + k))
        dense = (self.layers - self.expert_layers) * 3 * (h + self.mlp_width)
        shared = self.expert_layers * 3 * (h + self.shared_expert_width) if self.shared_expert_width else 0
        return rank * (attention + dense + shared)

    def expert_lora_parameters(self, rank: int) -> int:
        """Of adapters beside the routed experts, as PEFT's `target_parameters` makes them: gate and up are stored as one matrix and share
        the adapter's first half. (Named as `gate_proj` and `up_proj` among its modules, that half has twice the rank.)"""
        return self.expert_layers * self.experts * rank * (2 * self.hidden + 3 * self.expert_width)

    def _body(self, *, experts: int) -> int:
        h = self.hidden
        attention = self.layers * (2 * h * self.query_width + 2 * h * self.key_width)
        dense = (self.layers - self.expert_layers) * 3 * h * self.mlp_width
        routed = self.expert_layers * (self.experts * h + experts * 3 * h * self.expert_width)
        return attention + dense + routed + self.expert_layers * 3 * h * self.shared_expert_width


class Licence(Entry):
    """What a licence allows. `id` is an SPDX id or LicenseRef-…, and may end in `*`."""

    commercial: Verdict
    research: Verdict = "pass"
    obligations: str = Field(min_length=1)
    source: str | None = Field(default=None, description="Where the terms are.")
    as_of: date | None = None

    def allows(self, use: Use) -> Verdict:
        """The verdict on what the use case wants the model for."""
        return self.commercial if use == "commercial" else self.research


class Source(Fact):
    """Where the facts of a model were read, and when."""

    source: str = Field(min_length=1)
    as_of: date


class Downloads(Source):
    """How often a model was fetched in a month."""

    per_month: int = Field(ge=0)


class Community(Fact):
    """Who stands behind a model, and since when; None where it is not known."""

    maintained_by: str
    released: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}$", description="Year and month.")
    downloads: Downloads | None = None


class Quality(Source):
    """A published score, as a first guess only: scores of two benchmarks cannot be compared."""

    score: float
    benchmark: str = Field(min_length=1)


class Price(Source):
    """What a provider asks, per million tokens and per hour of hosting; None where it asks nothing or it is not known."""

    train: float | None = Field(default=None, ge=0, description="Per million tokens trained on, epochs counted.")
    input: float | None = Field(default=None, ge=0, description="Per million tokens read.")
    output: float | None = Field(default=None, ge=0, description="Per million tokens written.")
    hosting_hour: float | None = Field(default=None, ge=0)
    currency: str = Field(pattern=r"^[A-Z]{3}$")

    def stale(self, today: date) -> str | None:
        """A sentence if the price is too old to rely on."""
        days = (today - self.as_of).days
        if days <= STALE_DAYS:
            return None
        return f"its price is {days} days old ({self.source}, {self.as_of}); look it up again and write it under `prices` of a catalogue"


class Priced(Price, Entry):
    """A price in a catalogue file, by the id of the model that it is of."""


class Package(Fact):
    """A Python package that carries the weights as GGUF, with `assemble(path)`."""

    name: str
    module: str
    version: str
    sha256: str = Field(description="Of the assembled file.")
    quantised: str


class CatalogueModel(Entry):
    """One base model with open weights. None says that something is not known.

    `gated`: the hub asks for a login and consent. `chat_template`: the name of the format that its tokenizer ships, `none` if it ships
    none. `price` is what a provider asks for the model, if you do not run it yourself.
    """

    hub: str
    model_type: str | None = Field(default=None, description="As its config.json names it.")
    tuned: Literal["base", "instruct"] | None = None
    parameters: int = Field(gt=0)
    context: int = Field(gt=0, description="Tokens.")
    chat_template: str | None = None
    licence: str = Field(min_length=1)
    gated: bool | None
    architecture: Architecture
    facts: Source
    community: Community | None = None
    quality: Quality | None = None
    price: Price | None = None
    package: Package | None = None

    @model_validator(mode="before")
    @classmethod
    def _family_is_the_type(cls, row: Any) -> Any:
        """The type stands once, beside the architecture that it belongs to."""
        shape = row.get("architecture") if isinstance(row, dict) else None
        if isinstance(shape, dict):
            return {**row, "architecture": {"family": row.get("model_type") or "", **shape}}
        return row

    @model_validator(mode="after")
    def _count_follows_from_the_architecture(self) -> Self:
        counted = self.architecture.parameters
        if abs(counted - self.parameters) > COUNT_TOLERANCE * self.parameters:
            raise ValueError(
                f"parameters got {self.parameters}, but the numbers of its architecture make {counted}; copy both from the config.json"
            )
        return self

    @property
    def active_parameters(self) -> int:
        """Those that one token passes through."""
        return self.architecture.active_parameters if self.architecture.experts else self.parameters


class HostedModel(Entry):
    """A proprietary model that its provider tunes and serves: no weights, so no numbers of an architecture."""

    provider: str
    name: str = Field(description="As the provider's API names it.")
    context: int = Field(gt=0, description="Tokens.")
    licence: str = Field(min_length=1)
    facts: Source
    last_job_date: date | None = Field(default=None, description="The last day on which the provider takes new fine-tuning jobs.")
    shutdown_date: date | None = Field(default=None, description="From this day on neither the model nor what was tuned from it answers.")
    community: Community | None = None
    quality: Quality | None = None
    price: Price | None = None


class Catalogue(Fact):
    """Models and licences by file or of several; `prices` are those that a file gives for models of its own or of another."""

    licences: tuple[Licence, ...] = ()
    models: tuple[CatalogueModel, ...] = ()
    hosted: tuple[HostedModel, ...] = ()
    prices: tuple[Priced, ...] = ()

    def model(self, id: str) -> CatalogueModel | None:
        return next((model for model in self.models if model.id == id), None)

    def hosted_model(self, name: str) -> HostedModel | None:
        """By its id here, or by its name at the provider."""
        return next((model for model in self.hosted if name in (model.id, model.name)), None)

    def licence(self, id: str) -> Licence:
        """What the table says of a licence, `unknown` when it says nothing; an id of its own comes before one with `*`."""
        for licence in sorted(self.licences, key=lambda licence: licence.id != id):
            if fnmatchcase(id, licence.id):
                return licence.model_copy(update={"id": id})
        return Licence(id=id, commercial="unknown", research="unknown", obligations=UNKNOWN_TERMS)


@cache
def catalogue() -> Catalogue:
    """The models and licences that this version knows."""
    rows: dict[str, list[Any]] = {}
    for name in SHIPPED:
        text = files("fine_tune_pipeline.guide.base_model").joinpath(name).read_text(encoding="utf-8")
        for part, found in yaml.safe_load(text).items():
            rows.setdefault(part, []).extend(found)
    return Catalogue.model_validate(rows)


def model_named(id: str, known: Catalogue | None = None) -> CatalogueModel:
    """The model of that id, of the shipped catalogue or of the one given.

    Raises:
        UnknownModel: lists the ids.
    """
    known = known or catalogue()
    found, hosted = known.model(id), known.hosted_model(id)
    if found is not None:
        return found
    if hosted is not None:
        entry = f"{{type: api, id: {hosted.id}, model: {hosted.name}, licence: {hosted.licence}}}"
        raise UnknownModel(f"base_model.candidates: {id} has no open weights, {hosted.provider} tunes and serves it: write {entry}")
    ids = ", ".join(model.id for model in known.models)
    near = difflib.get_close_matches(id, [model.id for model in known.models], n=1)
    seen = f"{id!r} (did you mean {near[0]}?)" if near else repr(id)
    raise UnknownModel(
        f"base_model.candidates: got {seen}, want an id of the catalogue ({ids}), one of a file under base_model.catalogue, or a model "
        "folder of your own: {type: local, id: my-model, path: models/my-model, licence: Apache-2.0}"
    )


def licence_named(id: str, known: Catalogue | None = None) -> Licence:
    """What the shipped table, or the one given, says of a licence; `unknown` when it says nothing."""
    return (known or catalogue()).licence(id)
