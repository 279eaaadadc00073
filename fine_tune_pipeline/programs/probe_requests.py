"""What the probe of a tuned model is asked and what it answers. Nothing here imports torch."""

from typing import Annotated

from pydantic import Field

from fine_tune_pipeline.programs.requests import Access, Contract, PromptFormat, Read, Request
from fine_tune_pipeline.spec.training import Precision


class ProbeRequest(Request):
    """Step 7: what training has done to the model beside the task, measured on base and tuned model alike.

    Broken off, it goes on with the parts that are missing in `<output>/parts-<hash of what is asked>`.
    """

    module = "fine_tune_pipeline.programs.probe"
    resumable = True
    model: Read
    adapter: Read
    format: PromptFormat
    texts: Read = Field(description="JSONL of id and text, of which the loss is taken.")
    scored_tokens: int = Field(default=16, ge=1, description="Of a text, at most, evenly spread: the head is computed on these alone.")
    openings: Annotated[str | None, Access.READS] = Field(
        default=None, description="JSONL of id, prompt and opening: answers that are begun, to be continued greedily."
    )
    opening_tokens: int = Field(default=48, ge=1, description="Of a continuation, at most.")
    requests: Annotated[str | None, Access.READS] = Field(default=None, description="JSONL of id and prompt, to be answered greedily.")
    request_tokens: int = Field(default=16, ge=1, description="Of an answer, at most: whether it refuses shows in its first words.")
    codes: Annotated[str | None, Access.READS] = Field(
        default=None, description="JSONL of id, prompt and codes: answers of which the first was trained and the others never were."
    )
    batch_rows: int = Field(default=64, ge=1)
    batch_tokens: int = Field(default=32768, ge=1, description="At most in a batch, padding and answers included.")
    threads: int | None = None
    dtype: Precision = "float32"
    device: str = "cpu"


class TextLoss(Contract):
    """Mean loss of a text in nats per token, over `tokens` of its tokens."""

    id: str
    tokens: int
    base: float
    fine_tuned: float


class BothAnswers(Contract):
    """What base and tuned model wrote."""

    id: str
    base: str
    fine_tuned: str


class CodeRank(Contract):
    """Place of the trained code among all `candidates` by the gain in log-likelihood over the base, the highest gain first; equals count
    as before it. `gain` is its own, in nats."""

    id: str
    rank: int
    candidates: int
    gain: float


class ProbeResult(Contract):
    """Files of JSONL, None where nothing was asked."""

    texts: str = Field(description="Of `TextLoss`.")
    openings: str | None = Field(default=None, description="Of `BothAnswers`.")
    requests: str | None = Field(default=None, description="Of `BothAnswers`.")
    codes: str | None = Field(default=None, description="Of `CodeRank`.")
    parts: int
    resumed: int = Field(description="Parts that an earlier try had finished.")
    seconds: float
    peak_memory_bytes: int
