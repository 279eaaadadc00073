"""Rows that a model cannot learn from, told from their tokens alone, before it is loaded, and named by their ids."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.programs.tokenizer_fit import ModelLimits

if TYPE_CHECKING:
    from fine_tune_pipeline.programs.training.batches import Row


class NoLabelledTokens(ValueError):
    """Rows have no token to learn from."""


class BeyondContext(ValueError):
    """A row is longer than the model can look back on."""


class TokenWithoutPlace(ValueError):
    """A row holds a token that the model's embedding has no place for."""


def refuse_unlearnable(rows: "Sequence[Row]", *, source: str, tokenizer: PreTrainedTokenizerBase, limits: ModelLimits) -> None:
    """Refuse rows before the first step.

    Args:
        source: the file that they come from.
        limits: of the model that is to learn from them.

    Raises:
        NoLabelledTokens: their answers are empty.
        BeyondContext: they are longer than the model's context.
        TokenWithoutPlace: the tokenizer gave them tokens that the model does not know.
    """
    if empty := unanswered(rows, tokenizer=tokenizer):
        raise NoLabelledTokens(
            f"{source}: {len(empty)} of {len(rows)} rows have no token to learn from, their answers are empty: {some(empty)}; "
            "give them a completion, or quarantine them"
        )
    if long := beyond_context(rows, limits):
        longest = max(row.length for row in rows)
        raise BeyondContext(
            f"{source}: {len(long)} of {len(rows)} rows are longer than the model's context of {limits.context_tokens} tokens (the longest "
            f"has {longest}): {some(long)}; shorten or quarantine them, or choose a base model with a longer context"
        )
    if placeless := without_place(rows, limits):
        worst = max(id for row in rows for id in row.input_ids)
        raise TokenWithoutPlace(
            f"{source}: {len(placeless)} of {len(rows)} rows hold a token that the model has no place for, such as "
            f"{tokenizer.convert_ids_to_tokens(worst)!r} ({worst} of {limits.places}): {some(placeless)}; "
            "put the tokenizer files of this model into its folder, or take this token out of the chat template"
        )


def unanswered(rows: "Sequence[Row]", *, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Ids of rows whose answer, special tokens aside, is no text or white space only: it was so, or the tokenizer made it so."""
    answers = [set(row.input_ids[row.prompt_tokens :]) for row in rows]
    blank = {id for id in set().union(*answers) if not str(tokenizer.decode([id], skip_special_tokens=True)).strip()}
    return [row.id for row, answer in zip(rows, answers, strict=True) if answer <= blank]


def beyond_context(rows: "Sequence[Row]", limits: ModelLimits) -> list[str]:
    """Ids of rows with more tokens than the model can look back on; none where its config does not say."""
    return [] if limits.context_tokens is None else [row.id for row in rows if row.length > limits.context_tokens]


def without_place(rows: "Sequence[Row]", limits: ModelLimits) -> list[str]:
    """Ids of rows with a token beyond the model's embedding."""
    return [] if limits.places is None else [row.id for row in rows if max(row.input_ids, default=0) >= limits.places]
