"""Section `deployment.export`: the fine-tuned model as files for others."""

from typing import Annotated, Literal

from pydantic import Field

from fine_tune_pipeline.spec.base import Section
from fine_tune_pipeline.spec.training import Auto, Precision

Format = Literal["adapter", "merged", "gguf"]
GgufType = Literal["f32", "f16", "bf16", "q8_0"]


class ExportSpec(Section):
    """Which files, and how far a merged model may be from the adapter beside its base model."""

    formats: list[Format] = Field(
        default=[],
        description="adapter: PEFT; merged: one model with its tokenizer; gguf: for llama.cpp, whose converter must be installed where "
        "programs run. Empty: no asset exported_model.",
    )
    dtype: Auto | Precision = Field(default="auto", description="Of the merged weights; auto: as the base model's files.")
    largest_logit_difference: Auto | Annotated[float, Field(gt=0)] = Field(
        default="auto",
        description="On answers to validation prompts, between the adapter beside the base model and the merged one; above it nothing "
        "merged is kept. auto: 0.01 for float32, 1.0 for bfloat16.",
    )
    gguf_type: GgufType = Field(default="f16", description="Of the GGUF file's weights.")
