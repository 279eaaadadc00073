"""Texts inside JSON values: a conversation, a call of a tool, an answer with fields."""

from collections.abc import Iterator, Mapping
from typing import Any

MOST_LEVELS = 100
"""Of a body: far more than a schema or a tool has, and few enough for whatever goes through it level by level."""


class Unreadable(ValueError):
    """A JSON value that no model can be given."""


def refuse_unreadable(value: Any) -> None:
    """
    Raises:
        Unreadable: a text (a key, too) holds half a character, such as `"\\ud800"`, which JSON allows and no tokenizer reads; or it is
            nested too deeply.
    """
    level, levels = [value], 0
    while level:
        if levels > MOST_LEVELS:
            raise Unreadable(f"nested in more than {MOST_LEVELS} levels")
        for text in level:
            if isinstance(text, str) and not text.isascii() and text.encode("utf-8", "ignore").decode("utf-8") != text:
                raise Unreadable("a text holds half a character (a lone surrogate); want whole ones")
        lists = [item for item in level if isinstance(item, list)]
        dicts = [item for item in level if isinstance(item, dict)]
        level = [part for item in lists for part in item] + [part for item in dicts for pair in item.items() for part in pair]
        levels += 1


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys aside, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def mapped(value: Any, new: Mapping[str, str]) -> Any:
    """The value with texts replaced; keys, and texts that are not in `new`, stay."""
    if isinstance(value, str):
        return new.get(value, value)
    if isinstance(value, list):
        return [mapped(item, new) for item in value]
    return {key: mapped(item, new) for key, item in value.items()} if isinstance(value, dict) else value
