"""Section `base_model` (step 2): which pretrained models may be used, and where their weights come from."""

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import Field, field_validator

from fine_tune_pipeline.spec.base import Section, unset
from fine_tune_pipeline.spec.hosted import ApiModel

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[\w.\-]+/[\w.\-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODEL_VERSION = re.compile(r"models:/[^/@]+/[1-9][0-9]*")
_RUN_FOLDER = re.compile(r"runs:/[0-9a-zA-Z]+(/[^/]+)+")

_NAMES = ("id", "repo", "model")
"""Fields of a candidate that name it."""

COMMIT_WANTED = (
    "want the 40 hexadecimal digits of a commit, as the repository's page shows under History: what a branch, a tag or a short hash "
    "names can change"
)


def _commit(revision: str) -> str:
    if not _COMMIT.fullmatch(revision):
        raise ValueError(f"got {revision!r}, {COMMIT_WANTED}")
    return revision


class NamedModel(Section):
    """What every model of your own says: what it is called, and on which terms you hold it."""

    id: str = Field(min_length=1, description="The name under which tables show it.")
    licence: str = Field(min_length=1, description="SPDX id of the weights' licence, or LicenseRef-… for named terms.")


class LocalModel(NamedModel):
    """A model folder of your own: config.json, safetensors, tokenizer."""

    type: Literal["local"]
    path: str = Field(description="Folder, relative to the use case's folder or absolute.")


class GgufModel(NamedModel):
    """A GGUF file of your own: converted once into safetensors."""

    type: Literal["gguf"]
    path: str = Field(description="The .gguf file, relative to the use case's folder or absolute.")
    sha256: str = Field(description="SHA-256 of the file, as its publisher names it or `sha256sum FILE` says.")

    @field_validator("sha256")
    @classmethod
    def whole(cls, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"got {sha256!r}, want 64 hexadecimal digits in lower case, as `sha256sum FILE` says")
        return sha256


class HubModel(NamedModel):
    """A repository of the Hugging Face Hub, at one commit."""

    type: Literal["hub"]
    repo: str = Field(description="organisation/name.")
    revision: str = Field(description="The 40 hexadecimal digits of a commit.")

    @field_validator("repo")
    @classmethod
    def whole(cls, repo: str) -> str:
        if not _REPO.fullmatch(repo):
            raise ValueError(f"got {repo!r}, want organisation/name, such as HuggingFaceTB/SmolLM2-135M; no URL, no revision")
        return repo

    _pinned = field_validator("revision")(_commit)


class PinnedModel(Section):
    """A model of the catalogue, whose repository and licence that names, with weights from the Hugging Face Hub at one commit."""

    type: Literal["catalogue"]
    id: str = Field(min_length=1, description="Id of the catalogue.")
    revision: str = Field(description="The 40 hexadecimal digits of a commit.")

    _pinned = field_validator("revision")(_commit)


class MlflowModel(NamedModel):
    """A model that MLflow holds: of the transformers flavour, or a folder of artifacts with config.json, safetensors, tokenizer."""

    type: Literal["mlflow"]
    uri: str = Field(description="models:/name/3 (a version's number) or runs:/run_id/path.")

    @field_validator("uri")
    @classmethod
    def pinned(cls, uri: str) -> str:
        if not (_MODEL_VERSION.fullmatch(uri) or _RUN_FOLDER.fullmatch(uri)):
            raise ValueError(
                f"got {uri!r}, want models:/name/3 with the number of a version, or runs:/run_id/path: what an alias, a stage or `latest` "
                "names can change"
            )
        return uri


ModelSource = Annotated[LocalModel | GgufModel | HubModel | PinnedModel | MlflowModel | ApiModel, Field(discriminator="type")]


class BaseModelSpec(Section):
    """Candidates in order of preference; the first that passes licence, context and memory rules is taken."""

    candidates: list[str | ModelSource] = Field(
        default=["gemma-3-270m"], min_length=1, description="Ids of the catalogue, or models of your own with where they lie."
    )
    accept_licences: list[str] = Field(
        default=["Apache-2.0", "MIT"], description="Licences whose terms you have read and accept, by SPDX id or LicenseRef-…"
    )
    catalogue: list[str] = Field(
        default=[],
        description="YAML files beside the use case's file, whose models, licences and prices join the catalogue or replace its own.",
    )
    use: Literal["commercial", "research"] = Field(
        default="commercial", description="What the model is for: some licences allow research and no commercial use."
    )
    added_tokens: list[str] = Field(
        default=[],
        max_length=1024,
        description="Texts that become one token each, such as `<intent>`: the tokenizer learns to read them, and their rows of embedding "
        "and head are trained, with adapters too. They begin as the mean of all other rows.",
        exclude_if=unset,
    )

    @field_validator("added_tokens")
    @classmethod
    def _each_is_a_text_of_its_own(cls, tokens: list[str]) -> list[str]:
        for place, token in enumerate(tokens):
            if token != token.strip() or not token:
                raise ValueError(f"got {token!r}, want a text that neither is empty nor begins or ends with white space")
            if not token.isprintable() or unicodedata.normalize("NFC", token) != token:
                raise ValueError(f"got {token!r}, want printable characters in composed form (NFC): step 3 brings every text into it")
            if token in tokens[:place]:
                raise ValueError(f"got {token!r} twice, want each once")
        return tokens


def model_names(candidates: list[str | ModelSource]) -> list[str]:
    """Every name under which candidates are known: ids, repositories, names at a provider."""
    named = [
        (candidate,) if isinstance(candidate, str) else tuple(getattr(candidate, name, None) for name in _NAMES) for candidate in candidates
    ]
    return [name for names in named for name in names if name]
