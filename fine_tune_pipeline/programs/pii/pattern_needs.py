"""What a regular expression needs in a text: a cheap test that says no only where the expression cannot match.

Read from the parse tree of the standard library. What that parser does not know, or what it reads otherwise than the `regex` module
may, has no needs and is `plain` to nobody: such an expression is always run.
"""

# The tree has no public name in the standard library; the version of Python is pinned, and every expression that fails here is just run.
import re._constants as codes  # type: ignore[import-not-found]
import re._parser as tree  # type: ignore[import-not-found]
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import regex

FOLDED = {"s": "ſ", "k": "\u212a", "i": "İı"}
"""Characters beyond ASCII that match an ASCII letter where case does not count."""

_WIDEST = 64
"""Characters of a class that is still worth a look."""
_DIGITS = frozenset("0123456789")
_REPEATS = {codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT}
_LOOKS = {codes.ASSERT, codes.ASSERT_NOT}


@dataclass(frozen=True)
class Needs:
    """What every match holds: one character of each class, and so many digits."""

    classes: frozenset[frozenset[str]] = frozenset()
    digits: int = 0

    def met(self, characters: frozenset[str], digits: int) -> bool:
        """Whether a text of these characters, with so many digits, may match."""
        return digits >= self.digits and not any(need.isdisjoint(characters) for need in self.classes)

    def __add__(self, other: "Needs") -> "Needs":
        return Needs(self.classes | other.classes, self.digits + other.digits)


@cache
def needs(expression: str) -> Needs:
    """What an expression needs, case aside; nothing at all if it cannot be told."""
    parsed = _parsed(expression)
    return Needs() if parsed is None else _of_all(parsed)


@cache
def plain(expression: str) -> bool:
    """Whether another engine reads the expression alike, on a text in which characters beyond ASCII are replaced as `flat` does.

    So it names no character beyond ASCII, none of the stand-ins where a superset would not do, and uses the common syntax only.
    """
    parsed = _parsed(expression)
    return parsed is not None and all(_same(node, inverted=False) for node in parsed) and not regex.search(r"\(\?[aLu]", expression)


def relaxed(expression: str) -> str:
    """An expression that matches at least as much: `{1,253}` becomes `{1,}`, which is far quicker to compile."""
    loose, count = regex.subn(r"(?<!\\)\{(\d+),\d\d+\}", r"{\1,}", expression)
    bounds = [node[1][1] for node in _nodes(_parsed(expression) or []) if node[0] in _REPEATS]
    return loose if count == sum(10 <= int(bound) < int(codes.MAXREPEAT) and bound is not None for bound in bounds) else expression


WORD, GAP, SIGN = "_", "\x0c", "\x01"


class _NotFlat(Exception):
    """A character has no stand-in. No LookupError: `str.translate` takes that for a character to keep."""


class _Flat(dict[int, str]):
    """Character beyond ASCII -> an ASCII character of the same kind, found when it is first seen."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        if code < 128:
            found = sign
        elif regex.match(r"\d", sign) or any(sign in others for others in FOLDED.values()):
            raise _NotFlat
        else:
            found = WORD if regex.match(r"\w", sign) else GAP if regex.match(r"\s", sign) else SIGN
        self[code] = found
        return found


_FLAT = _Flat()


def flat(text: str) -> str | None:
    """The text in ASCII: every other character as a word's, a gap or a sign. None if one of them is a digit or folds to ASCII."""
    if text.isascii():
        return text
    try:
        return text.translate(_FLAT)
    except _NotFlat:
        return None


@cache
def _parsed(expression: str) -> list[Any] | None:
    try:
        parsed = list(tree.parse(expression, int(regex.IGNORECASE)))
    except Exception:
        # Not of the common syntax: `tree.parse` raises more than `re.error` on what only the `regex` module knows.
        return None
    # A literal brace may be a fuzzy match to the `regex` module, and two brackets a set operation.
    odd = any(kind is codes.LITERAL and value in (ord("{"), ord("}")) for kind, value in _nodes(parsed))
    return None if odd or "[[" in expression or "--" in expression or "&&" in expression or "||" in expression else parsed


def _nodes(parsed: Iterable[Any]) -> Iterator[Any]:
    for node in parsed:
        yield node
        for inner in _inside(node):
            yield from _nodes(inner)


def _inside(node: Any) -> list[Any]:
    kind, value = node
    if kind in _REPEATS:
        return [value[2]]
    if kind is codes.BRANCH:
        return list(value[1])
    if kind is codes.SUBPATTERN:
        return [value[3]]
    if kind in _LOOKS:
        return [value[1]]
    return [value] if kind is codes.ATOMIC_GROUP else []


def _of_all(parsed: Iterable[Any]) -> Needs:
    total = Needs()
    for node in parsed:
        total = total + _of(node)
    return total


def _of(node: Any) -> Needs:
    kind, value = node
    if kind is codes.LITERAL:
        return _of_class(frozenset(_cases(chr(value)))) if value < 128 else Needs()
    if kind is codes.IN:
        members = _members(value)
        return Needs() if members is None else _of_class(members)
    if kind in _REPEATS:
        inner = _of_all(value[2])
        return Needs(inner.classes, inner.digits * value[0]) if value[0] else Needs()
    if kind is codes.BRANCH:
        return _of_either([_of_all(branch) for branch in value[1]])
    return _of_all(_inside(node)[0]) if kind in (codes.SUBPATTERN, codes.ATOMIC_GROUP) else Needs()


def _of_class(members: frozenset[str]) -> Needs:
    if members <= _DIGITS:
        # One certain digit is no rarer than any; `\d` counts as such a class too.
        return Needs(digits=1) if len(members) != 1 else Needs(frozenset({members}), 1)
    return Needs(frozenset({members})) if len(members) <= _WIDEST else Needs()


def _of_either(branches: list[Needs]) -> Needs:
    digits = min(branch.digits for branch in branches)
    shared = frozenset.intersection(*(branch.classes for branch in branches))
    if all(branch.classes for branch in branches):
        one_of = frozenset[str]().union(*(min(branch.classes, key=lambda c: (len(c), sorted(c))) for branch in branches))
        shared = shared | {one_of} if len(one_of) <= _WIDEST else shared
    return Needs(shared, digits)


def _members(items: list[Any]) -> frozenset[str] | None:
    """The characters of a class in either case; None if they are too many or not only listed ones."""
    found: set[str] = set()
    for kind, value in items:
        if kind is codes.LITERAL and value < 128:
            found |= _cases(chr(value))
        elif kind is codes.RANGE and value[1] < 128 and value[1] - value[0] < _WIDEST:
            found |= {case for code in range(value[0], value[1] + 1) for case in _cases(chr(code))}
        elif kind is codes.CATEGORY and value is codes.CATEGORY_DIGIT:
            found |= _DIGITS
        else:
            return None
    # `\d` takes digits of all scripts, which are counted, but not listed.
    mixed = any(kind is codes.CATEGORY for kind, _ in items) and not found <= _DIGITS
    return None if mixed else frozenset(found)


def _cases(sign: str) -> set[str]:
    return {sign, sign.lower(), sign.upper(), sign.casefold(), *FOLDED.get(sign.lower(), "")}


def _same(node: Any, *, inverted: bool) -> bool:
    """Whether a node takes a stand-in wherever it takes the character itself; inside a negation, exactly there."""
    kind, value = node
    if kind in (codes.LITERAL, codes.NOT_LITERAL):
        return bool(value < 128) and (chr(value) not in (WORD, SIGN) if inverted or kind is codes.NOT_LITERAL else True)
    if kind is codes.IN:
        strict = inverted or any(kind is codes.NEGATE for kind, _ in value)
        return all(_same_item(item, strict=strict) for item in value)
    if kind in _LOOKS:
        return all(_same(inner, inverted=inverted or kind is codes.ASSERT_NOT) for inner in value[1])
    if kind in (codes.GROUPREF, codes.GROUPREF_EXISTS):
        return kind is codes.GROUPREF and not inverted
    return all(_same(inner, inverted=inverted) for part in _inside(node) for inner in part)


def _same_item(item: Any, *, strict: bool) -> bool:
    kind, value = item
    if kind is codes.RANGE:
        low, high = value
        return bool(high < 128) and not (strict and any(low <= ord(sign) <= high for sign in (WORD, SIGN, GAP)))
    return not (kind is codes.LITERAL and (value >= 128 or (strict and chr(value) in (WORD, SIGN, GAP))))
