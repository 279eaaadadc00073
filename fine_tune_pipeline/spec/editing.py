"""A value set in the text of a YAML file: comments, order and style of all else stay as they are.

The text is cut at the marks that PyYAML gives for each node. What comes out is read again: it must say what was wanted, and nothing else.
"""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import yaml

Location = tuple[str | int, ...]
"""Keys and indices from the root of the document down to a value."""

Order = Callable[[Location], Sequence[str]]
"""Names of the fields that may stand in the mapping at a location, in the order in which people want to read them."""

MERGE = "tag:yaml.org,2002:merge"


class NotEditable(Exception):
    """The value cannot be set without touching something else; the message says line, field and why."""


@dataclass(frozen=True)
class _Document:
    """A text with its nodes; `order` as in `with_value`."""

    text: str
    root: yaml.Node
    order: Order

    def refuse(self, node: yaml.Node, location: Location, why: str) -> NotEditable:
        return NotEditable(f"line {node.start_mark.line + 1}  {'.'.join(map(str, location))}: {why}; change it by hand")

    @property
    def newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    def anchor(self, node: yaml.Node) -> str:
        """The name under which a node is known."""
        starts = (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)
        named = ((event.anchor, event.start_mark) for event in yaml.parse(self.text, Loader=yaml.SafeLoader) if isinstance(event, starts))
        return next((name for name, mark in named if name and mark is not None and mark.index == node.start_mark.index), "")

    def end(self, node: yaml.Node) -> int:
        """Where the last character of a node's own text ends; a block collection has none of its own."""
        if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            last = node.value[-1]
            return self.end_of_entry(*last) if isinstance(node, yaml.MappingNode) else self.end(last)
        return node.start_mark.index + len(self.text[node.start_mark.index : node.end_mark.index].rstrip())

    def end_of_entry(self, key: yaml.Node, value: yaml.Node) -> int:
        """Where a mapping's entry ends; an alias has its node elsewhere."""
        alias = re.compile(r"\s*:\s*\*[\w\-]+").match(self.text, key.end_mark.index)
        return alias.end() if alias else max(key.end_mark.index, self.end(value))

    def line_after(self, place: int) -> int:
        """Where the line after the one of `place` begins."""
        found = self.text.find("\n", place)
        return len(self.text) if found < 0 else found + 1


def with_value(text: str, location: Location, value: Any, *, order: Order = lambda _: ()) -> str:
    """The text with one value set.

    Args:
        location: at least one part; mappings on the way that are not there are made, entries of lists are not.
        value: what YAML can say; a list keeps the text of those of its items that were there.
        order: where a new field is put among the others; at the end of its mapping where it says nothing.

    Raises:
        NotEditable: the value, or what it lies in, is anchored and used elsewhere, or has comments in it that would be lost.
        yaml.YAMLError: the text is no YAML.
    """
    before = yaml.safe_load(text)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        raise NotEditable("line 1  the text is empty; write the use case first")
    document = _Document(text, root, order)
    new = _set(document, location, value)
    wanted = _with(before, location, value)
    if repr(before) == repr(wanted):
        return text
    if not _says(new, wanted):
        raise document.refuse(root, location, "its place in the file is too unusual")
    return new


def _says(text: str, wanted: Any) -> bool:
    try:
        return yaml.safe_load(text) == wanted
    except yaml.YAMLError:
        return False


def _set(document: _Document, location: Location, value: Any) -> str:
    node, shared = document.root, _shared(document.root)
    for depth, part in enumerate(location):
        _refuse_shared(document, node, location, shared)
        child = _child(node, part)
        if child is None:
            return _inserted(document, node, location, depth, value)
        node = child
    _refuse_shared(document, node, location, shared)
    return _replaced(document, node, location, value)


def _refuse_shared(document: _Document, node: yaml.Node, location: Location, shared: set[int]) -> None:
    if id(node) in shared:
        raise document.refuse(node, location, f"it lies in the anchor &{document.anchor(node)}, which is used elsewhere too")


def _replaced(document: _Document, node: yaml.Node, location: Location, value: Any) -> str:
    if isinstance(node, yaml.SequenceNode) and isinstance(value, list) and node.value and value:
        return _listed(document, node, location, value)
    if isinstance(node, yaml.MappingNode) and isinstance(value, dict) and _names(node) and _names(node) <= set(value):
        text = document.text
        for name, item in value.items():
            text = with_value(text, (*location, name), item, order=document.order)
        return text
    start, end = node.start_mark.index, document.end(node)
    if any(mark.strip().startswith("#") for mark in document.text[start:end].splitlines()):
        raise document.refuse(node, location, "there are comments in it")
    anchor = re.match(r"&\S+\s+", document.text[start:end])
    start += anchor.end() if anchor else 0
    gap = " " if start == end and not document.text[:start].endswith((" ", "\n")) else ""
    return document.text[:start] + gap + _flow(value) + document.text[end:]


def _names(node: yaml.MappingNode) -> set[str]:
    return {key.value for key, _ in node.value}


def _inserted(document: _Document, node: yaml.Node, location: Location, depth: int, value: Any) -> str:
    """A field that was not there, in the mapping `node`; mappings below it are written on the same line."""
    name, rest = location[depth], location[depth + 1 :]
    if isinstance(name, int) or any(isinstance(part, int) for part in rest):
        raise document.refuse(node, location, "the list has no such entry")
    if rest and _is_merged(node, name):
        raise document.refuse(node, location, f"{name} comes from an anchor, by a merge key")
    for part in reversed(rest):
        value = {part: value}
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
        return _replaced(document, node, location[:depth], {name: value})
    if not isinstance(node, yaml.MappingNode):
        raise document.refuse(node, location, "what it would lie in is no mapping")
    entry = _flow({name: value})[1:-1]
    if not node.value:
        return _replaced(document, node, location[:depth], {name: value})
    before = _entry_before(node, str(name), document.order(location[:depth]))
    if before is None:
        first = node.value[0][0]
        gap = ", " if node.flow_style else document.newline + " " * first.start_mark.column
        return document.text[: first.start_mark.index] + entry + gap + document.text[first.start_mark.index :]
    end = document.end_of_entry(*before)
    if node.flow_style:
        return document.text[:end] + f", {entry}" + document.text[end:]
    place, indent = document.line_after(end), " " * node.value[0][0].start_mark.column
    if document.text[:place].endswith("\n"):
        return document.text[:place] + indent + entry + document.newline + document.text[place:]
    return document.text[:place] + document.newline + indent + entry


def _entry_before(node: yaml.MappingNode, name: str, order: Sequence[str]) -> tuple[yaml.Node, yaml.Node] | None:
    """The entry that a new field follows: the last of those that come before it in `order`; None: it comes first."""
    if name not in order:
        return node.value[-1]
    earlier = set(order[: order.index(name)])
    # A merge key, and whatever else has no place in the order, stays above.
    found = [entry for entry in node.value if entry[0].value in earlier or entry[0].value not in order]
    return found[-1] if found else None


def _listed(document: _Document, node: yaml.SequenceNode, location: Location, value: list[Any]) -> str:
    """The list with other items: those that were there keep their text."""
    inside = range(node.start_mark.index, node.end_mark.index)
    if not all(item.start_mark.index in inside and document.end(item) - 1 in inside for item in node.value):
        raise document.refuse(node, location, "an item of the list is an alias")
    pieces = _flow_items(document, node, location) if node.flow_style else _block_items(document, node)
    left = [(yaml.safe_load(yaml.serialize(item)), piece) for item, piece in zip(node.value, pieces, strict=True)]
    texts = []
    for wanted in value:
        place = next((place for place, (item, _) in enumerate(left) if item == wanted and type(item) is type(wanted)), None)
        texts.append(None if place is None else left.pop(place)[1])
    if node.flow_style:
        start, end = node.value[0].start_mark.index, document.end(node.value[-1])
        joined = ", ".join(_flow(item) if text is None else text for item, text in zip(value, texts, strict=True))
        return document.text[:start] + joined + document.text[end:]
    indent = " " * _dash(document.text, node.value[0])[1]
    start, end = _first_line(document.text, node.value[0]), document.line_after(document.end(node.value[-1]))
    lines = [f"{indent}- {_flow(item)}{document.newline}" if text is None else text for item, text in zip(value, texts, strict=True)]
    return document.text[:start] + "".join(lines) + document.text[end:]


def _flow_items(document: _Document, node: yaml.SequenceNode, location: Location) -> list[str]:
    places = [(item.start_mark.index, document.end(item)) for item in node.value]
    gaps = [document.text[end:start] for (_, end), (start, _) in pairwise(places)]
    if any("#" in gap for gap in gaps):
        raise document.refuse(node, location, "there are comments between its items")
    return [document.text[start:end] for start, end in places]


def _block_items(document: _Document, node: yaml.SequenceNode) -> list[str]:
    """Whole lines of each item; comments above one belong to it."""
    ends = [document.line_after(document.end(item)) for item in node.value]
    starts = [_first_line(document.text, node.value[0]), *ends[:-1]]
    return [_closed(document.text[start:end], document.newline) for start, end in zip(starts, ends, strict=True)]


def _closed(lines: str, newline: str) -> str:
    return lines if lines.endswith("\n") else lines + newline


def _dash(text: str, item: yaml.Node) -> tuple[int, int]:
    """Place and column of the dash before an item of a block list."""
    place = text.rindex("-", 0, item.start_mark.index)
    return place, place - (text.rfind("\n", 0, place) + 1)


def _first_line(text: str, item: yaml.Node) -> int:
    """Where the line of an item's dash begins, or the comment above it."""
    start = text.rfind("\n", 0, _dash(text, item)[0]) + 1
    while start:
        above = text.rfind("\n", 0, start - 1) + 1
        if not text[above:start].lstrip().startswith("#"):
            break
        start = above
    return start


def _shared(root: yaml.Node) -> set[int]:
    """Ids of nodes that stand in several places."""
    seen: set[int] = set()
    twice: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            twice.add(id(node))
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            waiting += [part for entry in node.value for part in entry]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
    return twice


def _child(node: yaml.Node, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None


def _is_merged(node: yaml.Node, part: str | int) -> bool:
    if not isinstance(node, yaml.MappingNode):
        return False
    merged = [value for key, value in node.value if key.tag == MERGE]
    mappings = [one for value in merged for one in (value.value if isinstance(value, yaml.SequenceNode) else [value])]
    return any(_child(one, part) is not None or _is_merged(one, part) for one in mappings)


def _with(data: Any, location: Location, value: Any) -> Any:
    """The data with one value set; what is not there on the way is made."""
    if not location:
        return copy.deepcopy(value)
    part, rest = location[0], location[1:]
    if isinstance(part, int):
        return [_with(item, rest, value) if place == part else item for place, item in enumerate(data)]
    return {**(data or {}), part: _with((data or {}).get(part), rest, value)}


def _flow(value: Any) -> str:
    """A value on one line, safe also inside braces."""
    return yaml.safe_dump([value], default_flow_style=True, sort_keys=False, allow_unicode=True, width=1_000_000).strip()[1:-1]
