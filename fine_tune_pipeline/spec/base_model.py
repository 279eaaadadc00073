"""Section `base_model` (step 2): which pretrained models may be used."""

from typing import Literal

from pydantic import Field

from fine_tune_pipeline.spec.base import Section
from fine_tune_pipeline.spec.hosted import ApiModel


class LocalModel(Section):
    """A model folder of your own: config.json, safetensors, tokenizer."""

    type: Literal["local"]
    id: str = Field(min_length=1, description="The name under which tables show it.")
    path: str = Field(description="Folder, relative to the use case's folder or absolute.")
    licence: str = Field(description="SPDX id of the weights' licence, or LicenseRef-… for named terms.")


class BaseModelSpec(Section):
    """Candidates in order of preference; the first that passes licence, context and memory rules is taken."""

    candidates: list[str | LocalModel | ApiModel] = Field(
        default=["gemma-3-270m"], min_length=1, description="Ids of the catalogue, local models, or models of a provider."
    )
    accept_licences: list[str] = Field(
        default=["Apache-2.0", "MIT"], description="Licences whose terms you have read and accept, by SPDX id or LicenseRef-…"
    )
