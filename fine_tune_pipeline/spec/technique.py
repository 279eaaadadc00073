"""Section `technique` (step 4): what of the base model is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section


class Auto(Section):
    """Full, LoRA or QLoRA, chosen by predicted memory on the hardware at hand."""

    type: Literal["auto"] = "auto"


class Full(Section):
    """All weights."""

    type: Literal["full"]


class LowRank(Section):
    """What all low-rank adapters have."""

    type: Literal["lora", "qlora"]
    rank: int = Field(default=16, ge=1, le=256, description="8 to 64 is usual; memory grows with it.")
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = Field(
        default="all-linear", description="all-linear leaves the output head out, and the router of a mixture of experts."
    )
    use_dora: bool = Field(
        default=False,
        description="DoRA: a learned length for every row of an adapted matrix. Nearer to full tuning at small ranks; slower, more memory.",
    )
    use_rslora: bool = Field(
        default=False, description="rsLoRA: scale by alpha / sqrt(rank) instead of alpha / rank, which keeps large ranks learning."
    )
    experts: Literal["frozen", "all"] = Field(
        default="frozen",
        description="Of a mixture of experts: all gives routed experts adapters of rank / experts per token. The router stays frozen.",
    )

    @model_validator(mode="after")
    def _experts_take_plain_adapters(self) -> Self:
        # PEFT adds the adapters of experts to the weights themselves, where neither has a place.
        if self.experts == "all" and self.dropout > 0:
            raise ValueError(f"dropout: got {self.dropout:g}, want 0 with experts: all; adapters of experts have no place for it")
        if self.experts == "all" and self.use_dora:
            raise ValueError("use_dora: got true, want false with experts: all; adapters of experts have no DoRA")
        return self


class Lora(LowRank):
    """Low-rank adapters beside frozen weights."""

    type: Literal["lora"]


class Qlora(LowRank):
    """Low-rank adapters beside weights held in 4 bits."""

    type: Literal["qlora"]


TechniqueSpec = Annotated[Auto | Full | Lora | Qlora, Field(discriminator="type")]
