"""Which of many expressions may match a text: one pass of Hyperscan where it is installed, needs of each expression elsewhere.

Either way the answer is a superset: an expression that is left out cannot match.
"""

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import regex

from fine_tune_pipeline.programs.pii.pattern_needs import flat, needs, plain, relaxed

try:
    import hyperscan as _installed
except ImportError:
    hyperscan: Any = None
else:
    hyperscan = _installed

Expression = tuple[str, int]
"""A regular expression, and its flags of the `regex` module."""

_DIGIT = regex.compile(r"\d")


class Filter(Protocol):
    """Says which expressions may match."""

    def __call__(self, text: str) -> list[int]:
        """Places of the expressions that may match the text, in order."""


class NeedsFilter:
    """Looks only for the characters that an expression cannot do without."""

    def __init__(self, expressions: Sequence[Expression]) -> None:
        self._needs = [needs(expression) for expression, _ in expressions]

    def __call__(self, text: str) -> list[int]:
        characters, digits = frozenset(text), len(_DIGIT.findall(text))
        return [place for place, need in enumerate(self._needs) if need.met(characters, digits)]


class HyperscanFilter:
    """One pass over the text for all expressions that Hyperscan can take; the others are always named."""

    def __init__(self, expressions: Sequence[Expression]) -> None:
        self._needs = NeedsFilter(expressions)
        self._database = hyperscan.Database()
        readable = [place for place, (expression, _) in enumerate(expressions) if plain(expression)]
        try:
            self._taken = _compiled(self._database, expressions, readable)
        except hyperscan.error:
            # It says only that some expression is not for it.
            readable = [place for place in readable if _compiles(expressions[place])]
            self._taken = _compiled(self._database, expressions, readable)
        self._always = [place for place in range(len(expressions)) if place not in self._taken]
        self._local = threading.local()

    def __call__(self, text: str) -> list[int]:
        written = flat(text)
        if written is None:
            return self._needs(text)
        if not self._taken:
            return self._always
        found = list(self._always)
        self._database.scan(written.encode(), match_event_handler=_collect, context=found, scratch=self._scratch())
        return sorted(found)

    def _scratch(self) -> Any:
        """Each thread has its own: Hyperscan refuses to share one."""
        if not hasattr(self._local, "scratch"):
            self._local.scratch = hyperscan.Scratch(self._database)
        return self._local.scratch


def pattern_filter(expressions: Sequence[Expression]) -> Filter:
    """The quickest filter that can be had here."""
    return NeedsFilter(expressions) if hyperscan is None else HyperscanFilter(expressions)


def _collect(place: int, start: int, end: int, flags: int, found: list[int]) -> None:
    found.append(place)


def _compiles(expression: Expression) -> bool:
    try:
        _compiled(hyperscan.Database(), [expression], [0])
    except hyperscan.error:
        return False
    return True


def _compiled(database: Any, expressions: Sequence[Expression], places: list[int]) -> frozenset[int]:
    if places:
        database.compile(
            expressions=[relaxed(expressions[place][0]).encode() for place in places],
            ids=places,
            elements=len(places),
            flags=[_flags(expressions[place][1]) for place in places],
        )
    return frozenset(places)


def _flags(flags: int) -> int:
    named = {
        regex.IGNORECASE: hyperscan.HS_FLAG_CASELESS,
        regex.DOTALL: hyperscan.HS_FLAG_DOTALL,
        regex.MULTILINE: hyperscan.HS_FLAG_MULTILINE,
    }
    return int(hyperscan.HS_FLAG_PREFILTER | hyperscan.HS_FLAG_SINGLEMATCH | sum(ours for flag, ours in named.items() if flags & flag))
