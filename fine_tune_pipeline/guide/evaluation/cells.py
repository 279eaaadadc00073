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


def interval(value: Mapping[str, Any], *, n: int | None = None) -> str:
    """A figure with its interval, and with its rows where they are others than what stands beside it says.

    Args:
        n: rows that the table or the sentence names.
    """
    rows = f" on {many(value['n'], 'row')}" if value.get("n", n) != n else ""
    return f"{value['estimate']:.3f} [{number(value['low'])}, {number(value['high'])}]{rows}"


def ends(value: Mapping[str, Any]) -> tuple[float, float]:
    """Both ends of a figure's interval, to be drawn; the estimate in place of one that is not bounded."""
    low, high = (value["estimate"] if value[end] is None else value[end] for end in ("low", "high"))
    return low, high


def share(value: Mapping[str, Any]) -> str:
    """A share in percent with its interval."""
    return f"{value['estimate']:.1%} [{value['low']:.1%}, {value['high']:.1%}]"


def many(count: int, what: str) -> str:
    """So many of them, such as `1,000 rows`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def short(text: str) -> str:
    """A text in one line of at most `SHOWN_CHARACTERS`."""
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= SHOWN_CHARACTERS else one_line[:SHOWN_CHARACTERS] + "…"
