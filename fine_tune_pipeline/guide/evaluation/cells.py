"""How numbers and texts of a report look in a cell or a sentence."""

from collections.abc import Mapping
from typing import Any

SHOWN_CHARACTERS = 240
"""Of a text in a table."""


def shown_of(shown: int, all_: int, which: str) -> str:
    """That a table shows a part only; empty when it shows all."""
    return f" Shown: {which} {shown} of {all_}; all are in report.json." if shown < all_ else ""


def number(value: float | None) -> str:
    """Three places; a dash where there is no number."""
    return "–" if value is None else f"{value:.3f}"


def interval(value: Mapping[str, Any]) -> str:
    """An estimate with its interval."""
    return f"{value['estimate']:.3f} [{number(value['low'])}, {number(value['high'])}]"


def short(text: str) -> str:
    """A text in one line of at most `SHOWN_CHARACTERS`."""
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= SHOWN_CHARACTERS else one_line[:SHOWN_CHARACTERS] + "…"
