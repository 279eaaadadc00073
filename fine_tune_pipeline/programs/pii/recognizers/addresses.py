"""Postal addresses, from the house number to the country, over commas and lines. Structure decides, not lists of streets."""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import regex

from fine_tune_pipeline.programs.pii.personal_data import Span, lowered
from fine_tune_pipeline.programs.pii.recognizers.lists import either, places, words

SURE, LIKELY = 0.8, 0.6
MOST_WORDS = 8
"""Between a house number and what proves that it is one; longer street names are rare."""
_LONGEST = 200
"""Characters of an address; a search that went on would read whole documents."""

_WORD = r"[\p{L}\p{M}][\p{L}\p{M}'’.\-]*"
_CAPITAL = r"\p{Lu}[\p{L}\p{M}'’.\-]*"
_NUMBER = r"\d{1,6}[a-zA-Z]?(?:[-/]\d{1,4}[a-zA-Z]?)?(?![\d\p{L}])"
_GAP = r"[ \t]*(?:[,\n][ \t>]*)*[,\n]?[ \t>]*"
"""Between the parts of an address: a space, a comma, lines, and the marks of a quoted mail."""
_UNIT = r"(?i:apt|apartment|suite|ste|unit|flat|floor|room|rm|building|bldg|block)\b\.?[ ]?#?[A-Za-z]?\d{1,5}[A-Za-z]?\b"
# A year is no postcode, although many have four digits.
_CODE = (
    r"(?<![\d\p{L}])(?:\d{5}(?:-\d{3,4})?|\d{3}[ ]\d{2}|\d{2}-\d{3}|(?!19|20)\d{4}(?:[ ]?[A-Z]{2}(?!\p{L}))?|\d{6}|"
    r"[A-Z]\d[A-Z][ ]?\d[A-Z]\d|(?i:[a-z]{1,2}\d[a-z\d]?[ ]\d[abd-hjlnp-uw-z]{2}))(?![\d\p{L}])"
)
_FORCES = r"(?i:APO|FPO|DPO),?[ ](?i:AA|AE|AP)\b(?:[ ]\d{5}(?:-\d{4})?)?"
_CROSSING = r"(?i:street|st|road|rd|avenue|ave|lane|loop|pass|bypass|courts?|gateway|way|drive)\b\.?"


def _no_quantity() -> str:
    return rf"(?!(?i:{either(words().counted)})\b)"


class _Start(NamedTuple):
    """What begins an address and is one already, and how sure that is. One of the words, in small letters, stands in every match."""

    expression: str
    score: float
    words: tuple[str, ...]


def _starts() -> tuple[_Start, ...]:
    known, number = words(), r"(?:\b\d{1,6}[ ]+)?"
    small = r"(?:(?i:de|del|da|do|dos|la|le|san|santa|r\.?)[ ])*"
    ends, begins, after = (
        tuple(f"{lowered(word)} " for word in each) for each in (known.street_ends, known.street_begins, known.street_after)
    )
    return (
        # Military mail of the United States, on land and on ships.
        _Start(rf"\b(?i:PSC|CMR|Unit)[ ]\d+,?[ ]Box[ ]\d+{_GAP}{_FORCES}", SURE, ("box",)),
        _Start(rf"\b(?i:USS|USNS|USNV|USCGC)[ ]{_WORD}{_GAP}{_FORCES}", SURE, ("uss ", "usns ", "usnv ", "uscgc ")),
        # Post boxes.
        _Start(
            r"(?:\b\d{1,5}[ ])?\b(?i:P\.?[ ]?O\.?[ ]?Box|Post(?:al)?[ ]?box|Postfach|Postboks|Apartado)\b\.?[ ]\d{1,6}\b", LIKELY,
            ("box", "postfach", "postboks", "apartado"),
        ),
        # Streets of other languages.
        _Start(rf"{number}\b[\p{{L}}\-]+(?i:{either(known.street_ends)})[ ]{_NUMBER}", LIKELY, ends),
        _Start(
            rf"{number}\b(?i:{either(known.street_begins)})[ ]{small}{_CAPITAL}(?:[ ]{_WORD}){{0,4}}?[ ]{_NUMBER}", LIKELY, begins,
        ),
        _Start(rf"{number}\b{_CAPITAL}(?:[ ]{_CAPITAL}){{0,2}}[ ](?:{either(known.street_after)})[ ]{_NUMBER}", LIKELY, after),
        # Corners of two streets.
        _Start(
            rf"\b(?i:(?:the[ ])?corner[ ]of)[ ](?:\d{{1,5}}[ ])?{_WORD}(?:[ ](?!and\b)(?:{_WORD}|\d+\.?)){{0,4}}"
            rf"[ ](?i:and|&)[ ](?:\d{{1,5}}[ ])?{_WORD}(?:[ ](?:{_CAPITAL}|\d{{1,5}}\b|{_CROSSING})){{0,4}}", LIKELY, ("corner of ",),
        ),
    )  # fmt: skip


_CUE = (
    r"(?i:\b(?:address(?:[ ]is|[ ]was)?:?|addressed[ ]to|lives?|living|lived|reside[sd]?|located|based|located[ ]at|sent|send[ ]it|shipped|"
    r"delivered|deliver|ship|return|moved|meet(?:[ ](?:me|you|us))?|stop|restaurant[ ]is|office[ ]is|offices[ ]are|visit[ ]us)"
    r"(?:[ ](?:at|on|in|to))?[ \t:]+)"
)
"""Words before a house number that say that a street follows."""


def find(text: str) -> list[Span]:
    """Addresses; they may overlap what other rules find."""
    if not _has_digit(text) and "orner of" not in text:
        return []
    lower = lowered(text)
    heads = [
        (match.start(), match.end(), score)
        for pattern, score, words in _heads()
        if any(word in lower for word in words)
        for match in pattern.finditer(text)
    ]
    spans = [Span(start, _tail(text, end) or end, "LOCATION", score, "pattern") for start, end, score in heads]
    return [*spans, *_numbered(text)]


def grown(span: Span, text: str) -> Span:
    """An address of somebody else's finding, with the rooms, places, codes and country that follow it."""
    end = _tail(text, span.end)
    return span if end is None else Span(span.start, end, span.entity, span.score, span.origin)


def _numbered(text: str) -> Iterator[Span]:
    """House number and street of any name, if something after it or before it proves them."""
    done = 0
    for match in _start().finditer(text):
        if match.start() < done:
            continue
        end = _proved(text, match) or _after_cue(text, match)
        if end is not None:
            done = end
            yield Span(match.start(), end, "LOCATION", LIKELY, "pattern")


def _proved(text: str, match: regex.Match[str]) -> int | None:
    """Where the address ends that begins with this number: the shortest street after which a room, code or country stands."""
    lower = not any(sign.isupper() for sign in text)
    end, words, capital, numbered = match.end(), 0, False, False
    while words < MOST_WORDS:
        step = _step().match(text, end)
        if step is None:
            return None
        end, words = step.end(), words + 1
        part = step.group().strip()
        numbered = part[0].isdigit()
        capital = capital or part[0].isupper()
        tail = _tail(text, end, countries=numbered)
        if tail is not None and (capital or (lower and words > 1) or _unit().search(text, end, tail)) and words > numbered:
            return tail
    return None


def _after_cue(text: str, match: regex.Match[str]) -> int | None:
    """Where the street ends that a word announces: capitalised words and numbers, with places after commas."""
    if _cue().search(text, max(0, match.start() - 40), match.start()) is None:
        return None
    street = _street().match(text, match.start())
    return None if street is None else street.end()


def _tail(text: str, end: int, *, countries: bool = True) -> int | None:
    """Where an address ends that was read up to `end`: after the last room, postcode or country that follows; None if there is none.

    Args:
        countries: whether a country alone proves that this is an address.
    """
    proved, here, limit = None, end, end + _LONGEST
    places_left = 4
    while here < limit:
        if (part := _sure_part().match(text, here)) is not None:
            here = proved = part.end()
            continue
        if (countries or proved is not None) and (part := _country().match(text, here)) is not None:
            here = proved = part.end()
            continue
        part = _place().match(text, here)
        if part is None or places_left == 0 or not (part.group("gap").strip(" ") or proved is not None):
            break
        here, places_left = part.end(), places_left - 1
    return proved


def _has_digit(text: str) -> bool:
    return _digit().search(text) is not None or (not text.isascii() and any(sign.isdigit() for sign in text))


@cache
def _digit() -> regex.Pattern[str]:
    return regex.compile(r"\d")


@cache
def _heads() -> tuple[tuple[regex.Pattern[str], float, tuple[str, ...]], ...]:
    return tuple((regex.compile(each.expression), each.score, each.words) for each in _starts())


@cache
def _start() -> regex.Pattern[str]:
    return regex.compile(rf"(?<![\p{{L}}\d.,:/@#£$€+\-]){_NUMBER}(?=[ ]{_no_quantity()}[\p{{L}}\d])")


@cache
def _step() -> regex.Pattern[str]:
    return regex.compile(rf"[ ]{_no_quantity()}(?:{_WORD}|{_NUMBER}\.?)")


@cache
def _unit() -> regex.Pattern[str]:
    return regex.compile(_UNIT)


@cache
def _cue() -> regex.Pattern[str]:
    return regex.compile(rf"{_CUE}$")


@cache
def _street() -> regex.Pattern[str]:
    return regex.compile(
        rf"{_NUMBER}(?:[ ]{_NUMBER})?(?:[ ](?:{_CAPITAL}|(?:de|del|da|do|dos|la|le|van|den|der|of|the)(?=[ ]))){{1,6}}(?:[ ]{_NUMBER})?"
        rf"(?:,[ ]{_CAPITAL}(?:[ ]{_CAPITAL}){{0,3}})*"
    )


@cache
def _sure_part() -> regex.Pattern[str]:
    return regex.compile(rf"{_GAP}(?:{_UNIT}|{_CODE}(?:[ ]{_CAPITAL}(?:[ ]{_CAPITAL}){{0,2}}(?=[ ]*(?:[,\n]|$)))?)")


@cache
def _country() -> regex.Pattern[str]:
    return regex.compile(rf"{_GAP}(?i:{either(places().countries)})(?![\p{{L}}\d])")


@cache
def _place() -> regex.Pattern[str]:
    word = r"[\p{L}\p{M}][\p{L}\p{M}'’.\-]*"
    # In small letters a place must have a line or a part of its own.
    first = rf"(?:{_CAPITAL}|(?<=[,\n][ \t>]*){word})"
    return regex.compile(rf"(?P<gap>{_GAP}){first}(?:[ ](?:{word}|\(\p{{L}}+\))){{0,3}}(?=[ \t]*(?:[,\n]|$)|[ ]+\d)")
