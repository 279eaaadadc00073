"""Long lists of names in a sentence."""

from collections.abc import Iterable

NAMED = 10
"""So many names are told before a list is cut."""


def some(names: Iterable[str], *, most: int = NAMED) -> str:
    """The first names, and how many there are if that is not all: `a, b, … (1,204 in all)`; `none` if there is none."""
    found = list(names)
    told = ", ".join(found[:most]) or "none"
    return f"{told}, … ({len(found):,} in all)" if len(found) > most else told
