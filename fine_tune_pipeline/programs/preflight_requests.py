"""What preflight (step 5) is asked and what it answers. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field

from fine_tune_pipeline.programs.heap import EXACT_HEAP
from fine_tune_pipeline.programs.requests import (
    Access,
    Contract,
    Hyperparameters,
    Placement,
    Prediction,
    PromptFormat,
    Read,
    Request,
    Technique,
    Tracking,
)
from fine_tune_pipeline.spec.base import unset


class TokenLengths(Contract):
    """As `artifacts.lengths.Lengths`, in tokens."""

    rows: int
    total: int
    p50: int
    p90: int
    p99: int
    longest: int
    width: int
    counts: tuple[int, ...]


class LongRow(Contract):
    """A row that is longer than max_length."""

    id: str
    tokens: int


class LabelledRow(Contract):
    """A row and how many of its tokens are learned."""

    id: str
    labelled: int
    tokens: int


class PartTokens(Contract):
    """How long the rows of one part are, special tokens included: `prompt`, `completion`, and both together as `whole`.

    `labelled` of all tokens are learned; `least_labelled` are the rows with the lowest share of them.
    """

    part: str
    lengths: dict[str, TokenLengths]
    over_long: int = Field(description="Rows longer than max_length.")
    long_rows: tuple[LongRow, ...] = Field(default=(), description="These rows, all of them.")
    labelled: int = 0
    least_labelled: tuple[LabelledRow, ...] = ()


class Piece(Contract):
    """Neighbouring tokens of a row that are treated alike, as text.

    `learned`: they count in the loss; the others are only read. `special`: one token of the tokenizer's own, such as the end of a turn.
    """

    text: str
    tokens: int
    learned: bool
    special: bool = False


Answer = Literal["preferred", "rejected", "wanted", "unwanted"]
"""One of two answers that are compared (dpo, orpo), or one that is judged by itself (kto)."""


class Rendered(Contract):
    """A row as the model is given it, special tokens written out; `pieces` are prompt and completion once more, end to end.

    `answer`: which of the compared ones it is; None where nothing is compared.
    """

    id: str
    prompt: str
    completion: str
    tokens: int
    pieces: tuple[Piece, ...] = ()
    answer: Answer | None = None

    @property
    def against(self) -> bool:
        """Whether it is to become less likely."""
        return self.answer in ("rejected", "unwanted")

    @property
    def title(self) -> str:
        """What it is, and how much of it counts."""
        learned = sum(piece.tokens for piece in self.pieces if piece.learned)
        which = f"{self.id}, {self.answer} answer" if self.answer else self.id
        return f"{which}: {learned} of {self.tokens} tokens are learned{' against' if self.against else ''}"


class MistakeCheck(Contract):
    """One of the classic mistakes of fine-tuning, looked for. `passed` is None where it does not apply or could not be looked at, and
    `seen` says why; `change` is what to do, or to know."""

    id: str
    passed: bool | None
    seen: str
    change: str = ""
    seconds: float = 0.0


class PreflightRequest(Request):
    """One real training step on the longest batch of the data, where the training will run (step 5).

    The rows of `train` and `validation` must fit, since both go through the model; those of `test` are only counted.
    """

    module = "fine_tune_pipeline.programs.preflight"
    environment = EXACT_HEAP
    model: Read
    train: Read
    validation: Annotated[str | None, Access.READS] = None
    test: Annotated[str | None, Access.READS] = None
    format: PromptFormat
    technique: Technique
    hyperparameters: Hyperparameters
    placement: Placement
    processes: int = Field(default=1, description="That will train together.", exclude_if=lambda count: count == 1)
    parts: int = Field(default=1, description="Into which the model will be cut.", exclude_if=lambda count: count == 1)
    over_long_limit: float = Field(default=0.0, description="Share of the rows that may be longer than max_length, and are left out then.")
    tracking: Tracking | None = Field(default=None, description="Where the training will be tracked: tried out, and nothing is left there.")
    artifacts: str | None = Field(default=None, description="Where a database-backed tracking keeps files of a new experiment.")


class PreflightResult(Contract):
    """Facts measured where the training will run; `problems` is empty when it may start."""

    device: str
    versions: dict[str, str]
    cpu_cores: int
    memory_total_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    rows: int
    longest_tokens: int
    over_long: tuple[str, ...] = Field(description="Ids of rows longer than max_length; how many may be left out is the use case's to say.")
    tokens_p50: int
    tokens_p95: int
    batch_rows: int
    step_seconds: float
    tokens_per_second: float = Field(description="Real (non-padding) tokens of the measured step.")
    peak_memory_bytes: int
    loss: float
    bfloat16_speedup: float = Field(
        description="float32 seconds / bfloat16 seconds of one matrix product here; below 1 bfloat16 is slower."
    )
    parts: tuple[PartTokens, ...] = ()
    preview: tuple[Rendered, ...] = ()
    devices: tuple[str, ...] = Field(default=(), description="Every accelerator that torch sees, and its memory.")
    driver: str | None = Field(default=None, description="Of the accelerators; None without one.")
    answer: Prediction | None = Field(default=None, description="What the tried model wrote for one prompt, by the code of the endpoint.")
    mistakes: tuple[MistakeCheck, ...] = Field(default=(), description="All nineteen, in the order of the documentation.")
    unused_tokens: tuple[str, ...] = Field(
        default=(), description="Tokens that were added to the model and are in no row: they learn nothing."
    )
    not_tried: str = Field(default="", description="Why no step was made where one could have been; empty if one was.", exclude_if=unset)
    problems: tuple[str, ...] = Field(default=(), description="What else stands in the way: device, memory, disk, store, tracking.")
