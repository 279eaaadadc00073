"""The rows of a dataset as the model will see them: some of them rendered, and how many tokens all of them have."""

from collections.abc import Sequence
from dataclasses import asdict

from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.artifacts.lengths import lengths
from fine_tune_pipeline.programs.batches import Row, over_long
from fine_tune_pipeline.programs.preflight_requests import PartTokens, Rendered, TokenLengths

PREVIEW_RANKS = (0.0, 0.5, 1.0)
"""Rows that are shown, by the rank of their length: the shortest, the one in the middle, the longest."""


def part_tokens(part: str, rows: Sequence[Row], *, max_length: int) -> PartTokens:
    """How long the rows of a part are."""
    prompts = [row.prompt_tokens for row in rows]
    wholes = [len(row.input_ids) for row in rows]
    answers = [whole - prompt for whole, prompt in zip(wholes, prompts, strict=True)]
    found = {"prompt": prompts, "completion": answers, "whole": wholes}
    return PartTokens(
        part=part,
        lengths={name: TokenLengths(**asdict(lengths(values))) for name, values in found.items()},
        over_long=len(over_long(rows, max_length=max_length)),
    )


def preview(rows: Sequence[Row], *, tokenizer: PreTrainedTokenizerBase) -> tuple[Rendered, ...]:
    """A few rows as text again, with every special token written out: what is decoded here is what the model is given."""
    ranked = sorted(rows, key=lambda row: len(row.input_ids))
    places = sorted({round(rank * (len(ranked) - 1)) for rank in PREVIEW_RANKS}) if ranked else []
    return tuple(_rendered(ranked[place], tokenizer) for place in places)


def _rendered(row: Row, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    prompt, completion = row.input_ids[: row.prompt_tokens], row.input_ids[row.prompt_tokens :]
    texts = [tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) for ids in (prompt, completion)]
    return Rendered(id=row.id, prompt=texts[0], completion=texts[1], tokens=len(row.input_ids))
