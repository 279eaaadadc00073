"""What an export is asked and what it answers. Nothing here imports torch."""

from pydantic import Field

from fine_tune_pipeline.programs.requests import Contract, Precision, PromptFormat, Read, Request
from fine_tune_pipeline.spec.export import Format, GgufType

ADAPTER, MERGED, GGUF = "adapter", "merged", "gguf"
"""Folders of an export, named as its formats."""


class ExportRequest(Request):
    """What was trained, in forms that others can use: `<output>/export/` with a folder for each format.

    `trained` is a PEFT adapter, or a whole model after full tuning. `prompts` are JSONL rows of id, prompt, completion: on their answers
    the merged model is compared with the adapter beside the base model.
    """

    module = "fine_tune_pipeline.programs.export"
    model: Read
    trained: Read
    prompts: Read
    format: PromptFormat
    formats: tuple[Format, ...]
    name: str = Field(description="Of the GGUF file.")
    quantised: bool = Field(default=False, description="The adapter was trained beside a base model in nf4 (qlora).")
    stored_dtype: Precision | None = Field(default=None, description="Of the merged weights; None: as those of the base model.")
    largest_difference: float | None = Field(default=None, description="Of logits, allowed; None: by the merged weights' dtype.")
    gguf_type: GgufType = "f16"
    device: str = "cpu"
    dtype: Precision = "float32"
    threads: int | None = None


class Merge(Contract):
    """The merged model as it was written, beside the adapter on the base model.

    `quantised_difference` is to the model that was really trained, whose base was in nf4; None where it was not.
    """

    stored_dtype: Precision
    prompts: int
    positions: int = Field(description="Tokens of answers, and the first ones, at which the whole vocabulary was compared.")
    largest_difference: float = Field(description="Of one logit.")
    allowed: float
    effect: float = Field(description="The largest difference that the adapter itself makes.")
    same_choices: int = Field(description="Positions at which the likeliest token stays.")
    quantised_difference: float | None = None
    quantised_same_choices: int | None = None


class GgufMade(Contract):
    """The file and who made it."""

    file: str
    type: GgufType
    converter: str


class ExportResult(Contract):
    """`folder` holds what was made; `refused` says why nothing was merged, empty if nothing stood in the way."""

    folder: str
    formats: tuple[Format, ...] = Field(description="Those that were made.")
    whole: bool = Field(description="Full tuning left a whole model, with nothing to merge.")
    merge: Merge | None
    gguf: GgufMade | None
    refused: str = ""
    seconds: float
    peak_memory_bytes: int
