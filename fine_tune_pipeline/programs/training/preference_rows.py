"""Compared answers as rows of tokens: pairs for dpo and orpo, single answers with a verdict for kto."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.artifacts.comparisons import check_compared
from fine_tune_pipeline.programs.requests import Hyperparameters, PromptFormat
from fine_tune_pipeline.programs.training.batches import IGNORED, Row, shown_ids, tokenised


@dataclass(frozen=True, kw_only=True)
class Pair(Row):
    """Two answers to one prompt; the row itself is the preferred one."""

    rejected: Row

    @property
    def length(self) -> int:
        return max(len(self.input_ids), self.rejected.length)

    @property
    def labelled(self) -> int:
        """Of both answers."""
        return self.own_labelled + self.rejected.own_labelled

    @property
    def preferred(self) -> Row:
        return Row(self.id, self.input_ids, self.labels, self.prompt_tokens)


@dataclass(frozen=True, kw_only=True)
class Judged(Row):
    """One answer, and whether it is wanted. `other` is the same prompt with the answer of another row: over many rows it says how far the
    model has moved from the reference in general."""

    desirable: bool
    other: Row


class Learned(NamedTuple):
    """Rows to learn from, and the ids of those that say nothing about what is learned."""

    rows: list[Row]
    left_out: tuple[str, ...] = ()

    def said(self) -> str:
        """For people."""
        return f"{len(self.left_out)} rows have no rejected answer and are not learned from: {shown_ids(self.left_out)}"


def every_answer(rows: Sequence[Row]) -> list[Row]:
    """What is learned from, or away from, as rows of their own."""
    return [answer for row in rows for answer in ((row.preferred, row.rejected) if isinstance(row, Pair) else (row,))]


def learned_rows(
    examples: Sequence[Mapping[str, Any]],
    *,
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    format: PromptFormat,
    hyperparameters: Hyperparameters,
) -> Learned:
    """The rows of a file as tokens, as what is learned needs them.

    Raises:
        NoComparisons: answers are to be compared, and no row of `source` has two.
    """
    wanted, loss_on = hyperparameters.preference, hyperparameters.loss_on
    plain = [tokenised(example, tokenizer=tokenizer, format=format, loss_on=loss_on) for example in examples]
    if wanted is None:
        return Learned(plain)
    rejected = [_rejected(example, tokenizer=tokenizer, format=format) for example in examples]
    check_compared(sum(row is not None for row in rejected), of=len(examples), source=source, wanted=wanted.type)
    if wanted.type == "kto":
        unwanted = [row for row in rejected if row is not None]
        return Learned(_judged([*plain, *unwanted], wanted=len(plain), max_length=hyperparameters.max_length))
    pairs = [Pair(**vars(row), rejected=other) for row, other in zip(plain, rejected, strict=True) if other is not None]
    return Learned([*pairs], tuple(row.id for row, other in zip(plain, rejected, strict=True) if other is None))


def _rejected(example: Mapping[str, Any], *, tokenizer: PreTrainedTokenizerBase, format: PromptFormat) -> Row | None:
    answer = example.get("rejected")
    if answer is None:
        return None
    return tokenised({**example, "completion": answer}, tokenizer=tokenizer, format=format, loss_on="completion")


def _judged(rows: Sequence[Row], *, wanted: int, max_length: int) -> list[Row]:
    """The first `wanted` are. Each has the answer of the row before it as `other`, the first that of the last.

    In this order, unlike in that of the file, the two answers to one prompt are not neighbours. `other` is cut to `max_length`: it is not
    learned from.
    """
    others = [_mixed(row, before, max_length=max_length) for row, before in zip(rows, [*rows[-1:], *rows[:-1]], strict=True)]
    return [Judged(**vars(row), desirable=place < wanted, other=other) for place, (row, other) in enumerate(zip(rows, others, strict=True))]


def _mixed(row: Row, answered: Row, *, max_length: int) -> Row:
    prompt, answer = row.input_ids[: row.prompt_tokens], answered.input_ids[answered.prompt_tokens :]
    ids, labels = prompt + answer, [IGNORED] * len(prompt) + answer
    return Row(row.id, ids[:max_length], labels[:max_length], row.prompt_tokens)
