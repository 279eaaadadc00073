"""What the program that adds tokens to a base model is asked and answers."""

from pydantic import Field

from fine_tune_pipeline.programs.contracts import Contract, Read, Request


class ExtendRequest(Request):
    """Add tokens to a base model once: to its tokenizer, and as rows of its embedding and head (step 2)."""

    module = "fine_tune_pipeline.programs.extend"
    model: Read
    tokens: tuple[str, ...]


class ExtendResult(Contract):
    """The extended folder (`<output>/model`), and the id of every added token."""

    model: str
    tokens: dict[str, int]
    rows: int = Field(description="Of the embedding, now.")
    added_parameters: int
