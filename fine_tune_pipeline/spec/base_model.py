"""Section `base_model` (step 2): which pretrained models may be used."""

from typing import Literal

from pydantic import Field

from fine_tune_pipeline.spec.base import Section


class LocalModel(Section):
    """A model folder of your own: config.json, safetensors, tokenizer."""

    type: Literal["local"]
    id: str = Field(min_length=1, description="The name under which tables show it.")
    path: str = Field(description="Folder, relative to the use case's folder or absolute.")
    licence: str = Field(description="SPDX id of the weights' licence, or LicenseRef-… for named terms.")


class BaseModelSpec(Section):
    """Candidates in order of preference; the first that passes licence, context and memory rules is taken."""

    candidates: list[str | LocalModel] = Field(default=["gemma-3-270m"], min_length=1, description="Ids of the catalogue, or local models.")
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
