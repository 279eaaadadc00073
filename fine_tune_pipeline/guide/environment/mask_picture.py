"""Rows with what is learned in colour, as a picture that Markdown can hold: the web UI takes every style and tag out of Markdown.

Lines are cut here, since SVG does not wrap text. A line is one text, so that letters that run from right to left, or join, are laid out by
the browser; colours belong to the letters, not to places. Widths are counted in cells of a terminal, wide letters as two.
"""

import base64
from collections.abc import Iterator, Sequence
from html import escape

from wcwidth import iter_graphemes, wcswidth

from fine_tune_pipeline.programs.learned_text import SHOWN, Span, kinds_of, spans, visible
from fine_tune_pipeline.programs.preflight_requests import Rendered

COLUMNS = 88
"""Cells of a line."""

CELL, LINE, MARGIN = 8, 19, 16
WIDTH = COLUMNS * CELL + 2 * MARGIN

NEWLINE = "↵"

STYLE = (
    "text{fill:#4b5563;font:13px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}"
    ".head{fill:#111827;font:600 13px sans-serif}.note{fill:#6b7280;font:13px sans-serif}"
    ".special{fill:#7c3aed;font-style:italic}.gap{fill:#9ca3af;font-style:italic}"
    ".learned{fill:#047857;font-weight:700;text-decoration:underline}.against{fill:#b91c1c}"
)

Line = list[Span]


def markdown_mask(rows: Sequence[Rendered], *, title: str) -> str:
    """The rows as one Markdown image; a sentence where there are none."""
    if not rows:
        return "No row became tokens; the table of mistakes says why."
    encoded = base64.b64encode(svg(rows, title=title).encode("utf-8")).decode("ascii")
    return f"![{title}](data:image/svg+xml;base64,{encoded})"


def svg(rows: Sequence[Rendered], *, title: str) -> str:
    """The rows as an SVG document: learned text in green, bold and underlined, that of rejected answers in red, the rest in
    grey, special tokens slanted."""
    lines = [_legend(against=any(row.against for row in rows))]
    for row in rows:
        lines += ["", f'<tspan class="head">{escape(visible(row.title))}</tspan>']
        row_lines = wrapped(spans(row.pieces, most=SHOWN), columns=COLUMNS)
        lines += ["".join(_tspan(span, against=row.against) for span in line) for line in row_lines]
    height = LINE * len(lines) + 2 * MARGIN
    texts = [f'<text x="{MARGIN}" y="{MARGIN + LINE * number + 13}">{line}</text>' for number, line in enumerate(lines) if line]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    return "".join([head, f"<title>{escape(title)}</title><style>{STYLE}</style>", ground, *texts, "</svg>"])


def wrapped(row: Sequence[Span], *, columns: int) -> list[Line]:
    """The row in lines of at most `columns` cells. A line break of the text is shown and breaks the line; the others come between words
    where that leaves a line half full, else anywhere between two letters, never inside one."""
    lines: list[Line] = []
    for cells in _paragraphs(row):
        lines += [_joined(part) for part in _fitting(cells, columns=columns)]
    return lines


def _paragraphs(row: Sequence[Span]) -> Iterator[list[Span]]:
    """Letters (with accents and joiners) one by one, each line of the text on its own; a special token is one letter."""
    cells: list[Span] = []
    for span in row:
        for letter in [span.text] if span.special or span.gap else iter_graphemes(span.text):
            newline = letter.endswith("\n")
            cells.append(span._replace(text=NEWLINE if newline else letter.replace("\t", "⇥")))
            if newline:
                yield cells
                cells = []
    if cells:
        yield cells


def _fitting(cells: Sequence[Span], *, columns: int) -> Iterator[Sequence[Span]]:
    start, used, space = 0, 0, 0
    for place, cell in enumerate(cells):
        width = _cells(cell.text)
        if used + width > columns and place > start:
            cut = space if space > start and _width(cells[start:space]) >= columns // 2 else place
            yield cells[start:cut]
            start, used = cut, _width(cells[cut:place])
        used += width
        if cell.text == " ":
            space = place + 1
    yield cells[start:]


def _width(cells: Sequence[Span]) -> int:
    return sum(_cells(cell.text) for cell in cells)


def _cells(text: str) -> int:
    # A letter that no terminal knows (-1) takes one, and one that has no width of its own must not be endless.
    return max(wcswidth(text), 1)


def _joined(cells: Sequence[Span]) -> Line:
    line: Line = []
    for cell in cells:
        if line and line[-1][1:] == cell[1:] and not cell.special:
            line[-1] = cell._replace(text=line[-1].text + cell.text)
        else:
            line.append(cell)
    return line


def _tspan(span: Span, *, against: bool = False) -> str:
    kinds = kinds_of(span, against=against)
    return f'<tspan class="{" ".join(kinds)}">{escape(span.text)}</tspan>' if kinds else f"<tspan>{escape(span.text)}</tspan>"


def _legend(*, against: bool) -> str:
    shown = [Span("learned", True), Span("<special token>", True, special=True), Span("only read", False)]
    shown.append(Span("<special token>", False, special=True))
    lost = [_tspan(Span("learned against", True), against=True)] if against else []
    return '<tspan class="note">   </tspan>'.join([*map(_tspan, shown), *lost])
