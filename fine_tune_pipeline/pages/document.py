"""A report or a data card for people: Markdown for the web UI, and one HTML file that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATE = "page.html"


@dataclass(frozen=True)
class Row:
    """Cells of a table; `kind` sets a row apart: own, met, not met, cannot tell."""

    cells: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Part:
    """A part of a text; `kind` sets it apart: learned, special, gap, against, or several of them with spaces between."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Block:
    """A text to be shown as it is, line by line, below what it is. `parts` are the same in colour, for the page."""

    label: str
    text: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading, sentences, charts, a table, a list, texts to be shown as they are; each may be missing.

    `charts` are SVG that `charts.py` made, for the page alone; there `folded` sections show their heading until they are opened.
    """

    title: str
    text: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    items: tuple[str, ...] = ()
    charts: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A title, what matters most, a line on what this is about, and sections in reading order."""

    title: str
    advice: str
    about: str
    sections: Sequence[Section]


def table(title: str, records: Sequence[Mapping[str, Any]], *, text: str = "", charts: tuple[str, ...] = ()) -> Section:
    """A section with a table of records, empty where one lacks a key; without any it says so."""
    if not records:
        return Section(title, f"{text} None.".strip(), charts=charts)
    columns = tuple(dict.fromkeys(name for record in records for name in record))
    rows = tuple(Row(tuple(str(record.get(name, "")) for name in columns)) for record in records)
    return Section(title, text, columns, rows, charts=charts)


def markdown(page: Page) -> str:
    """The page as Markdown; texts of examples are escaped, so that they cannot break a table."""
    lines = [f"# {page.title}", ""]
    for line in (page.advice, page.about):
        lines += [_line(line), ""] if line else []
    for section in page.sections:
        lines += [f"## {section.title}", ""]
        lines += [_line(section.text), ""] if section.text else []
        lines += [*_table(section.columns, section.rows), ""] if section.rows else []
        lines += [*(f"- {_line(item)}" for item in section.items), ""] if section.items else []
        lines += [line for block in section.blocks for line in _block(block)]
    return "\n".join(lines)


def fenced(code: str, language: str) -> str:
    """Code of our own as a Markdown block that can be copied."""
    return f"```{language}\n{code.strip()}\n```\n"


def html(page: Page) -> str:
    """The page as HTML: inline style and SVG, light and dark, printable, no script."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Our own SVG, which has escaped its texts.
    environment.filters["svg"] = Markup
    return environment.get_template(TEMPLATE).render(page=page)


def _table(columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    head = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return [*head, *("| " + " | ".join(_cell(cell) for cell in row.cells) + " |" for row in rows)]


def _block(block: Block) -> list[str]:
    """Indented, so that no mark in the text can end it."""
    return [_line(block.label), "", *(f"    {line}" for line in block.text.split("\n")), ""]


def _line(text: str) -> str:
    """A sentence in which names of the user's own cannot become markup; our code marks stay."""
    return " ".join(text.split()).replace("<", "&lt;").replace("*", "\\*")


def _cell(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`").replace("\n", " ")
    return escaped.replace("*", "\\*").replace("_", "\\_")
