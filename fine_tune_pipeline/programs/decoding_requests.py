"""What an answer can be at all, as programs are told; without it an answer is free text."""

from typing import Annotated, Any, Literal

from pydantic import Field

from fine_tune_pipeline.programs.contracts import Contract


class LabelDecoding(Contract):
    """The answer is the likeliest of a closed list of texts, each written as training writes it."""

    type: Literal["labels"] = "labels"
    labels: tuple[str, ...] = Field(min_length=2)


class JsonDecoding(Contract):
    """The answer is written token by token, and only tokens that keep it inside a JSON Schema can be chosen."""

    type: Literal["json_schema"] = "json_schema"
    answer_schema: dict[str, Any]
    separators: tuple[str, str] | None = Field(
        default=None, description="What stands between items and after a key, as training writes it; None: over lines or not."
    )


Decoding = Annotated[LabelDecoding | JsonDecoding, Field(discriminator="type")]
