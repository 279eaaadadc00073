"""What `likelihood` is asked and answers."""

from typing import Annotated

from pydantic import Field

from fine_tune_pipeline.programs.contracts import Access, Contract, Read, Request, Written
from fine_tune_pipeline.programs.requests import PromptFormat, Shot
from fine_tune_pipeline.spec.training import Precision


class LikelihoodJob(Contract):
    """One system on JSONL rows of id, prompt, completion and rejected. `output` becomes JSONL of `Weighed`."""

    name: str
    rows: Read
    output: Written
    format: PromptFormat
    adapter: Annotated[str | None, Access.READS] = None
    shots: tuple[Shot, ...] = ()


class LikelihoodRequest(Request):
    """How likely several systems that share one base model hold two given answers to each prompt."""

    module = "fine_tune_pipeline.programs.likelihood"
    model: Read
    jobs: tuple[LikelihoodJob, ...]
    batch_rows: int = Field(default=16, description="Answers at most that go through the model together.")
    batch_tokens: int = Field(default=8192, description="At most in a batch, padding included.")
    threads: int | None = None
    dtype: Precision = "float32"
    device: str = "cpu"


class Weighed(Contract):
    """Log-probabilities of both answers to one prompt in nats, end token included, and how many tokens each has."""

    id: str
    preferred_logprob: float
    rejected_logprob: float
    preferred_tokens: int
    rejected_tokens: int


class LikelihoodResult(Contract):
    """Rows weighed, system by system."""

    rows: dict[str, int]
    seconds: float
