"""Section `technique` (step 4): what of the base model is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section, unset


class Auto(Section):
    """Full, LoRA or QLoRA, chosen by predicted memory on the hardware at hand."""

    type: Literal["auto"] = "auto"


class Full(Section):
    """All weights."""

    type: Literal["full"]


class LayerRange(Section):
    """Layers that follow one another."""

    first: int = Field(description="Counted from 0; from the end if negative: -4 is the fourth from the end.")
    last: int = Field(default=-1, description="Included.")


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
    use_pissa: bool = Field(
        default=False,
        description="PiSSA: adapters begin as the strongest directions of the weights, not at nothing. Learns faster in the first steps.",
        exclude_if=unset,
    )
    lora_plus_ratio: float | None = Field(
        default=None,
        ge=1,
        le=64,
        description="LoRA+: the second half of every adapter learns so many times faster than the first; 16 is usual. None: equally fast.",
        exclude_if=unset,
    )
    layers: Literal["all"] | list[int] | LayerRange = Field(
        default="all",
        description="Layers that get adapters: their numbers, counted from 0 (-1 is the last), or {first: 12, last: 17}.",
        exclude_if=unset,
    )
    experts: Literal["frozen", "all"] | list[Annotated[int, Field(ge=0)]] = Field(
        default="frozen",
        description="Of a mixture of experts: all, or the numbers of some (the same ones in every layer), get adapters of rank / experts "
        "per token.",
    )
    router: Literal["frozen", "train"] = Field(
        default="frozen", description="Of a mixture of experts: train gives the router an adapter too.", exclude_if=unset
    )

    @model_validator(mode="after")
    def _nothing_is_chosen_twice_or_not_at_all(self) -> Self:
        for name in ("layers", "experts", "target_modules"):
            chosen = getattr(self, name)
            if isinstance(chosen, list) and (not chosen or len(set(chosen)) < len(chosen)):
                raise ValueError(f"{name}: got {chosen}, want at least one, and each once")
        return self

    @model_validator(mode="after")
    def _adapters_of_parameters_are_plain(self) -> Self:
        # PEFT adds the adapters of experts and of the router to the weights themselves.
        asked = [f"experts: {self.experts}"] if self.experts != "frozen" else []
        asked += ["router: train"] if self.router == "train" else []
        if asked and self.dropout > 0:
            raise ValueError(f"dropout: got {self.dropout:g}, want 0 with {asked[0]}; adapters there have no place for it")
        for name, what in (("use_dora", "DoRA"), ("use_pissa", "PiSSA")):
            if asked and getattr(self, name):
                raise ValueError(f"{name}: got true, want false with {asked[0]}; adapters there have no {what}")
        return self

    @model_validator(mode="after")
    def _pissa_changes_the_weights(self) -> Self:
        # What PiSSA takes out of the weights is put back when the adapter is saved: impossible if they are packed, or their lengths learn.
        if self.use_pissa and self.type == "qlora":
            raise ValueError("use_pissa: got true, want false with qlora: PiSSA changes the weights, which are packed; take lora")
        if self.use_pissa and self.use_dora:
            raise ValueError("use_pissa: got true, want false with use_dora: the learned lengths would be those of the changed weights")
        return self


class Lora(LowRank):
    """Low-rank adapters beside frozen weights."""

    type: Literal["lora"]


class Qlora(LowRank):
    """Low-rank adapters beside weights held in 4 bits."""

    type: Literal["qlora"]


TechniqueSpec = Annotated[Auto | Full | Lora | Qlora, Field(discriminator="type")]
