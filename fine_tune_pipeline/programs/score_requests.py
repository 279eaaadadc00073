"""What `score` is asked and answers."""

from typing import Annotated

from pydantic import Field

from fine_tune_pipeline.programs.contracts import Access, Contract, Read, Request


class ScoreRequest(Request):
    """Means of per-example scores by Hugging Face `evaluate`: JSONL rows of system, id, and one number per metric."""

    module = "fine_tune_pipeline.programs.score"
    scores: Read
    partial: tuple[str, ...] = Field(default=(), description="Metrics that only some rows have.")
    statistics: Annotated[str | None, Access.READS] = Field(
        default=None, description="JSONL rows of system, id, and the numbers that make a metric of all rows together."
    )
    value: str = Field(
        default="", description="`module:name` of a function of the package that makes of a metric's name what they come to."
    )


class ScoreResult(Contract):
    """system -> metric -> mean."""

    means: dict[str, dict[str, float]]
