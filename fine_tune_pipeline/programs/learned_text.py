"""Which part of a row is learned, as plain text for a terminal, a log or Markdown; the guide's picture uses its spans. No torch here."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from wcwidth import iter_graphemes

from fine_tune_pipeline.programs.preflight_requests import Piece, Rendered

SHOWN = 400
"""Characters of a stretch that is learned or only read; of a longer one its beginning and its end are shown."""

LEARNED_MARKS, SPECIAL_MARKS = ("⟦", "⟧"), ("‹", "›")

_HIDDEN = (0x00AD, 0x061C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF)
"""Characters without a picture of their own, some of which turn the text around them. Those that join letters are not among them."""

_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **{code: f"[U+{code:04X}]" for code in (*range(0x80, 0xA0), *_HIDDEN, 0xFFFE, 0xFFFF)},
}


class Span(NamedTuple):
    """A text and how it is shown. `gap`: it says how much is left out, and is no part of the row."""

    text: str
    learned: bool
    special: bool = False
    gap: bool = False


def kinds_of(span: Span, *, against: bool) -> list[str]:
    """Names of how it looks, for the colours of a page or a picture.

    Args:
        against: the row is to become less likely.
    """
    learned = span.learned and not span.gap
    looks = {"special": span.special, "learned": learned, "against": learned and against, "gap": span.gap}
    return [name for name, is_it in looks.items() if is_it]


def visible(text: str) -> str:
    """The text with a picture for each character that has none, or that would turn the text around it; line breaks and tabs stay."""
    return text.translate(_VISIBLE)


def spans(pieces: Sequence[Piece], *, most: int | None = None) -> list[Span]:
    """The pieces with every character visible; of a stretch of more than `most` characters only the beginning and the end."""
    shown: list[Span] = []
    for learned, stretch in groupby(pieces, key=lambda piece: piece.learned):
        found = [Span(visible(piece.text), learned, piece.special) for piece in stretch]
        size = sum(len(span.text) for span in found)
        if most is None or size <= most:
            shown += found
            continue
        head, tail = _begin(found, most // 2), _begin(found, most // 2, backwards=True)
        left_out = size - sum(len(span.text) for span in (*head, *tail))
        shown += [*head, Span(f"… {left_out:,} characters …", learned, gap=True), *tail]
    return shown


def _begin(stretch: Sequence[Span], most: int, *, backwards: bool = False) -> list[Span]:
    """As many whole characters (letters with their accents, composed emoji) of one end as `most` allows, in the order of the text."""
    kept: list[Span] = []
    for span in reversed(stretch) if backwards else stretch:
        text = "".join(_fitting(span, most, backwards=backwards))
        if text:
            kept.append(span._replace(text=text))
        if text != span.text:
            break
        most -= len(text)
    return kept[::-1] if backwards else kept


def _fitting(span: Span, most: int, *, backwards: bool) -> list[str]:
    # A special token is whole or not there.
    units = [span.text] if span.special else list(iter_graphemes(span.text))
    kept: list[str] = []
    for unit in reversed(units) if backwards else units:
        if len(unit) > most:
            break
        kept.append(unit)
        most -= len(unit)
    return kept[::-1] if backwards else kept


def marked(rows: Sequence[Sequence[Span]]) -> tuple[list[str], str]:
    """Each row as text with marks around what is learned and around special tokens, and a sentence that says which marks.

    Marks that stand in a text themselves are doubled, tripled …, for all rows alike.
    """
    texts = [span.text for row in rows for span in row]
    learned, special = (_unused(marks, texts) for marks in (LEARNED_MARKS, SPECIAL_MARKS))
    legend = f"{learned[0]}learned{learned[1]}, the rest is only read; {special[0]}special{special[1]} is one token of the tokenizer's own"
    return ["".join(_stretches(row, learned=learned, special=special)) for row in rows], legend


def _stretches(row: Sequence[Span], *, learned: tuple[str, str], special: tuple[str, str]) -> Iterator[str]:
    for is_learned, stretch in groupby(row, key=lambda span: span.learned):
        text = "".join(span.text.join(special) if span.special else f"[{span.text}]" if span.gap else span.text for span in stretch)
        yield text.join(learned) if is_learned else text


def _unused(marks: tuple[str, str], texts: Sequence[str]) -> tuple[str, str]:
    times = 1
    while any(mark * times in text for mark in marks for text in texts):
        times += 1
    return marks[0] * times, marks[1] * times


def log_lines(shown: Sequence[Rendered]) -> str:
    """The rendered rows for a log."""
    texts, legend = marked([spans(row.pieces, most=SHOWN) for row in shown])
    rows = [f"row {row.title}:\n{text}" for row, text in zip(shown, texts, strict=True)]
    return "\n".join([f"what is learned ({legend}):", *rows])
