"""How much text there is to learn from, in tokens, without asking a tokenizer: careful bounds and likely figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fine_tune_pipeline.artifacts.examples import Asked, Example
from fine_tune_pipeline.guide.base_model.duration import Tokens
from fine_tune_pipeline.programs.prompts import plain_prompt
from fine_tune_pipeline.programs.token_bounds import FRAME_TOKENS, most_tokens

LIKELY_BYTES_PER_TOKEN = 3.5
"""English messages have about four bytes a token, JSON answers about three."""

SPARE_TOKENS = 32
"""Room for a longer frame, such as a chat template's."""


@dataclass(frozen=True)
class Workload:
    """What one epoch holds. `tokens`, `labelled_tokens` and `longest_tokens` are likely figures, `longest_bound` is a careful bound.

    `unwanted`: answers that people liked less, where answers are compared. `validation_tokens`: of the rows that are only looked at.
    """

    rows: int
    tokens: int
    labelled_tokens: int
    longest_tokens: int
    longest_bound: int
    unwanted: int = 0
    validation_tokens: int = 0

    @property
    def labelled_share(self) -> float:
        return self.labelled_tokens / self.tokens

    @property
    def tokens_per_row(self) -> float:
        return self.tokens / self.rows

    @property
    def seen(self) -> Tokens:
        """Of one epoch, as its duration is counted."""
        return self.passed(rows=0)

    def passed(self, *, rows: int) -> Tokens:
        """Of one epoch in forward passes of so many rows; 0: what starting them costs is left out."""
        passes = self.rows / rows if rows else 0
        return Tokens(all=self.tokens, labelled=self.labelled_tokens, per_row=self.tokens_per_row, passes=passes)


def workload(
    train: Sequence[Example], validation: Sequence[Example] = (), *, loss_on: Literal["completion", "all"] = "completion"
) -> Workload:
    """The figures of a training set; the longest row may stand in either set, since both must fit."""
    rows = [*train, *validation]
    answers = sum(likely_tokens(example.completion) for example in train)
    tokens = math.ceil(answers + _prompt_tokens(train))
    return Workload(
        rows=len(train),
        tokens=tokens,
        labelled_tokens=tokens if loss_on == "all" else math.ceil(answers),
        longest_tokens=math.ceil(max(likely_tokens(_given(example) + example.completion) for example in rows)) + FRAME_TOKENS,
        longest_bound=max(most_tokens(_given(example)) + most_tokens(example.completion) for example in rows) + SPARE_TOKENS,
        validation_tokens=math.ceil(sum(likely_tokens(example.completion) for example in validation) + _prompt_tokens(validation)),
    )


def _prompt_tokens(examples: Sequence[Example]) -> float:
    return sum(likely_tokens(_given(example)) + FRAME_TOKENS for example in examples)


def _given(example: Example) -> str:
    """What was looked up, if anything was, and the question: all that the model reads before the answer, but for a frame."""
    return plain_prompt(Asked("", context=example.context)) + example.question if example.context else example.question


def likely_tokens(text: str) -> float:
    """Tokens that a usual tokenizer makes of the text."""
    return len(text.encode("utf-8")) / LIKELY_BYTES_PER_TOKEN
