"""The rows as the chosen base model sees them: rendered, counted in its tokens, and held against max_length.

Here and not in the dataset, though people look for it there: only the base model's tokenizer knows, and a dataset that depended on it
would be rebuilt, reviewed and split anew for every other base model. Preflight has the tokenizer and the rows at hand, and renders them
by the same code as training and serving.
"""

from typing import Any

from fine_tune_pipeline.pages.charts import histogram
from fine_tune_pipeline.pages.document import Block, Page, Section, table
from fine_tune_pipeline.programs.preflight_requests import PreflightResult

SHOWN_CHARACTERS = 1500
"""Of each side of a rendered row."""

PERCENTILES = ("p50", "p90", "p99", "longest", "total")


def token_lengths(seen: PreflightResult) -> list[dict[str, Any]]:
    """A row for prompt, completion and both together of each part."""
    return [
        {"part": part.part, "text": text, "rows": found.rows, **{name: getattr(found, name) for name in PERCENTILES}}
        for part in seen.parts
        for text, found in part.lengths.items()
    ]


def truncation(seen: PreflightResult, *, max_length: int) -> list[dict[str, Any]]:
    """How many rows of each part pass the limit: such rows are left out, never cut."""
    return [
        {
            "part": part.part,
            "rows": part.lengths["whole"].rows,
            "max_length": max_length,
            "longest": part.lengths["whole"].longest,
            "over_long": part.over_long,
        }
        for part in seen.parts
    ]


def texts_page(seen: PreflightResult, *, max_length: int, use_case: str) -> Page:
    """All three for people."""
    limit = table(
        "Longer than max_length", truncation(seen, max_length=max_length), text="Test rows are counted too, but no training reads them."
    )
    return Page(
        title=f"The rows of {use_case} as the model sees them",
        advice=f"{len(seen.over_long):,} of {seen.rows:,} training and validation rows are longer than max_length ({max_length} tokens): "
        "such rows are left out whole, never cut.",
        about="Counted with the tokenizer of the base model, special tokens included.",
        sections=[_preview(seen), _lengths(seen), limit],
    )


def _preview(seen: PreflightResult) -> Section:
    blocks = [
        block
        for row in seen.preview
        for block in (
            Block(f"{row.id} ({row.tokens} tokens), what is given:", _cut(row.prompt)),
            Block("What is to be learnt:", _cut(row.completion)),
        )
    ]
    text = "The shortest training row, the one in the middle, and the longest: text that stands for tokens, none of them left out."
    return Section("Preview", text, blocks=tuple(blocks))


def _lengths(seen: PreflightResult) -> Section:
    drawn = {f"{part.part} rows": part.lengths["whole"] for part in seen.parts}
    charts = tuple(
        histogram(found.counts, width=found.width, title=f"Tokens of the {name}", unit=f"tokens of the {name}")
        for name, found in drawn.items()
    )
    return table("Lengths in tokens", token_lengths(seen), charts=charts)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text):,} characters)"
