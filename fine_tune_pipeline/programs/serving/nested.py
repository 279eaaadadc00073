"""Texts inside JSON values: a conversation, a call of a tool, an answer with fields."""

from collections.abc import Iterator, Mapping
from typing import Any


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
