"""The catalogue of base models: facts as data, and what can be computed from them."""

from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

Commercial = Literal["pass", "conditions", "fail", "unknown"]


class UnknownModel(ValueError):
    """The catalogue has no model of that id."""


class Fact(BaseModel):
    """Base of the catalogue's parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(Fact):
    """Numbers of a decoder with grouped-query attention and a gated MLP, as nearly all open models are."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocabulary: int
    tied: bool = Field(description="The output head is the embedding.")

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def body_parameters(self) -> int:
        """Of the layers' matrices: query, output, key, value, and the three of the MLP. Norms and biases are below 0.03 %."""
        attention = 2 * self.hidden * self.query_width + 2 * self.hidden * self.key_width
        return self.layers * (attention + 3 * self.hidden * self.mlp_width)

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding, and of the output head where that is another matrix."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.body_parameters + self.embedding_parameters

    def lora_parameters(self, rank: int) -> int:
        """Of adapters beside all seven matrices of each layer."""
        q, k, h, i = self.query_width, self.key_width, self.hidden, self.mlp_width
        return self.layers * rank * (2 * (h + q) + 2 * (h + k) + 3 * (h + i))


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
