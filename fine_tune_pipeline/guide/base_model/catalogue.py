"""The catalogue of base models: facts as data, and what can be computed from them."""

from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Commercial = Literal["pass", "conditions", "fail", "unknown"]


class UnknownModel(ValueError):
    """The catalogue has no model of that id."""


class Fact(BaseModel):
    """Base of the catalogue's parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class Licence(Fact):
    """What a licence allows in a company. `id` may end in `*`."""

    id: str
    commercial: Commercial
    obligations: str


class Source(Fact):
    """Where the facts of a model were read, and when."""

    source: str
    as_of: date


class Package(Fact):
    """A Python package that carries the weights as GGUF, with `assemble(path)`."""

    name: str
    module: str
    version: str
    sha256: str = Field(description="Of the assembled file.")
    quantised: str


class CatalogueModel(Fact):
    """One base model. `gated`: the hub asks for a login and consent; None when it is not known."""

    id: str
    hub: str
    parameters: int
    context: int = Field(description="Tokens.")
    licence: str
    gated: bool | None
    architecture: Architecture
    facts: Source
    package: Package | None = None


class Catalogue(Fact):
    """The shipped file."""

    licences: tuple[Licence, ...]
    models: tuple[CatalogueModel, ...]


@cache
def catalogue() -> Catalogue:
    """The models and licences that this version knows."""
    text = files("fine_tune_pipeline.guide.base_model").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return Catalogue.model_validate(yaml.safe_load(text))


def model_named(id: str) -> CatalogueModel:
    """The model of that id.

    Raises:
        UnknownModel: lists the ids.
    """
    for model in catalogue().models:
        if model.id == id:
            return model
    known = ", ".join(model.id for model in catalogue().models)
    raise UnknownModel(
        f"base_model.candidates: got {id!r}, want an id of the catalogue ({known}) or a model folder of your own: "
        "{type: local, id: my-model, path: models/my-model, licence: Apache-2.0}"
    )


def licence_named(id: str) -> Licence:
    """What the table says of a licence; `unknown` when it says nothing."""
    for licence in catalogue().licences:
        if fnmatchcase(id, licence.id):
            return licence.model_copy(update={"id": id})
    return Licence(id=id, commercial="unknown", obligations="these terms are not in the table: what they ask of you is yours to know")
