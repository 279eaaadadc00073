"""The rows as the chosen base model sees them: rendered, counted in its tokens, and held against max_length.

Here and not in the dataset, though people look for it there: only the base model's tokenizer knows, and a dataset that depended on it
would be rebuilt, reviewed and split anew for every other base model. Preflight has the tokenizer and the rows at hand, and renders them
by the same code as training and serving.
"""

from typing import Any

from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.pages.charts import histogram
from fine_tune_pipeline.pages.document import Block, Page, Part, Section, table
from fine_tune_pipeline.programs.learned_text import kinds_of, marked, spans
from fine_tune_pipeline.programs.preflight_requests import LabelledRow, PartTokens, PreflightResult

SHOWN_CHARACTERS = 1500
"""Of each stretch of a rendered row that is learned or only read."""

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
            "ids": some(row.id for row in part.long_rows),
        }
        for part in seen.parts
    ]


def long_rows(seen: PreflightResult, *, max_length: int) -> list[dict[str, Any]]:
    """Every row that is longer than max_length, with its part and its tokens."""
    return [
        {"id": row.id, "part": part.part, "tokens": row.tokens, "max_length": max_length} for part in seen.parts for row in part.long_rows
    ]


def labelled(seen: PreflightResult) -> list[dict[str, Any]]:
    """How much of each part is learned, and the rows of which the least is."""
    return [
        {
            "part": part.part,
            "tokens": part.lengths["whole"].total,
            "labelled": part.labelled,
            "share": round(share(part), 4),
            "lowest": ", ".join(map(_of_row, part.least_labelled)),
        }
        for part in seen.parts
    ]


def share(part: PartTokens) -> float:
    """Labelled tokens over all tokens of a part."""
    return part.labelled / (part.lengths["whole"].total or 1)


def _of_row(row: LabelledRow) -> str:
    return f"{row.id} ({row.labelled} of {row.tokens}, {row.labelled / row.tokens:.1%})"


def texts_page(seen: PreflightResult, *, max_length: int, use_case: str) -> Page:
    """All three for people."""
    limit = table(
        "Longer than max_length",
        truncation(seen, max_length=max_length),
        text="Test rows are counted too, but no training reads them. All ids are in over_long.jsonl.",
    )
    return Page(
        title=f"The rows of {use_case} as the model sees them",
        advice=f"{len(seen.over_long):,} of {seen.rows:,} training and validation rows are longer than max_length ({max_length} tokens): "
        "such rows are left out whole, never cut.",
        about="Counted with the tokenizer of the base model, special tokens included.",
        sections=[_preview(seen), _lengths(seen), _labelled(seen), limit],
    )


def _preview(seen: PreflightResult) -> Section:
    shown = [spans(row.pieces, most=SHOWN_CHARACTERS) for row in seen.preview]
    texts, legend = marked(shown)
    blocks = [
        Block(row.title, text, tuple(Part(part.text, " ".join(kinds_of(part, against=row.against))) for part in parts))
        for row, text, parts in zip(seen.preview, texts, shown, strict=True)
    ]
    red = ", what is learned against is red" if any(row.against for row in seen.preview) else ""
    text = (
        f"The shortest training row, the one in the middle, and the longest. In colour, what is learned is green{red}; as text: {legend}."
    )
    return Section("What is learned", text, blocks=tuple(blocks))


def _labelled(seen: PreflightResult) -> Section:
    return table("Labelled share", labelled(seen), text="Tokens that count in the loss, of all tokens; the rows of which the least counts.")


def _lengths(seen: PreflightResult) -> Section:
    drawn = {f"{part.part} rows": part.lengths["whole"] for part in seen.parts}
    charts = tuple(
        histogram(found.counts, width=found.width, title=f"Tokens of the {name}", unit=f"tokens of the {name}")
        for name, found in drawn.items()
    )
    return table("Lengths in tokens", token_lengths(seen), charts=charts)
