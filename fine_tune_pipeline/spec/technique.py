"""Section `technique` (step 4): what of the base model is trained."""

from typing import Annotated, Literal

from pydantic import Field

from fine_tune_pipeline.spec.base import Section


class Auto(Section):
    """Full, LoRA or QLoRA, chosen by predicted memory on the hardware at hand."""

    type: Literal["auto"] = "auto"


class Full(Section):
    """All weights."""

    type: Literal["full"]


class LowRank(Section):
    """What all low-rank adapters have."""

    rank: int = Field(default=16, ge=1, le=256, description="8 to 64 is usual; memory grows with it.")
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"


class Lora(LowRank):
    """Low-rank adapters beside frozen weights."""

    type: Literal["lora"]


class Qlora(LowRank):
    """Low-rank adapters beside weights held in 4 bits."""

    type: Literal["qlora"]


TechniqueSpec = Annotated[Auto | Full | Lora | Qlora, Field(discriminator="type")]
