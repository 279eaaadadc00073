"""What a model found, put right: web addresses and labels cut off, capitalised neighbours taken in, words that name nobody dropped."""

from collections.abc import Iterable
from functools import cache

import regex

from fine_tune_pipeline.programs.pii.personal_data import STOP_WORDS, Span
from fine_tune_pipeline.programs.pii.recognizers.lists import names, words

NAMES = ("PERSON", "LOCATION", "ORGANIZATION")


def tidied(spans: Iterable[Span], text: str) -> list[Span]:
    """Findings of the model as they were meant; those of patterns and other kinds as they are."""
    result = []
    for span in spans:
        if span.origin != "model" or span.entity not in NAMES:
            result.append(span)
            continue
        for part in _parts(span, text):
            whole = _grown(part, text) if span.entity == "PERSON" else part
            if not nobody(text[whole.start : whole.end], span.entity):
                result.append(whole)
    return result


def _parts(span: Span, text: str) -> list[Span]:
    """The span without web addresses, and cut at line ends, where another field or signature line begins."""
    pieces = _cut().split(text[span.start : span.end]) if span.entity != "LOCATION" else _web().split(text[span.start : span.end])
    found, at = [], span.start
    for piece in pieces:
        start = text.index(piece, at) if piece else at
        at = start + len(piece)
        trimmed = _without_label(piece, text[at : at + 2])
        if span.entity == "PERSON":
            trimmed = _tail().sub("", trimmed)
        if trimmed.strip(" :@#-"):
            found.append(Span(start, start + len(trimmed), span.entity, span.score, span.origin))
    return found


def _without_label(piece: str, after: str) -> str:
    """`Jane Doe Title` before a colon is `Jane Doe`."""
    if after.lstrip(" ")[:1] != ":":
        return piece
    rest, _, last = piece.rstrip().rpartition(" ")
    if not rest:
        return "" if last.casefold() in words().next_fields else piece
    return rest.rstrip() if last.casefold() in words().next_fields else piece


def _grown(span: Span, text: str) -> Span:
    """A name with the capitalised words beside it that belong to it: `Ana` of `Ana Dias`, `Cadena` of `Christopher Cadena`."""
    end = span.end
    possessive = text[:end].endswith(("'s", "’s"))
    if not possessive and (more := _surname().match(text, end)) is not None and more["word"].casefold() not in _no_neighbour():
        end = more.end()
    start = span.start
    before = _before().search(text, max(0, start - 30), start)
    if before is not None and before["word"].casefold() in names().given | names().also_words and _capital(text, span.start):
        start = before.start("word")
    return Span(start, end, span.entity, span.score, span.origin)


def _capital(text: str, place: int) -> bool:
    return text[place : place + 1].isupper()


def nobody(found: str, entity: str) -> bool:
    """Whether a finding of the model consists of words that name nobody: `LOL`, `Borrower Company`, `the Loan Agreement`."""
    parts = _words().findall(found.casefold())
    if not parts or all(part in words().nobody or part in STOP_WORDS or part in ("'", "s", "’") for part in parts):
        return True
    if entity == "ORGANIZATION":
        lower = not any(sign.isupper() for sign in found) and len(parts) == 1
        return lower or parts[-1] in words().papers or all(part.isdigit() for part in parts)
    return False


@cache
def _no_neighbour() -> frozenset[str]:
    return STOP_WORDS | words().nobody | words().next_fields | words().ranks | words().job_heads | names().no_surname


@cache
def _words() -> regex.Pattern[str]:
    return regex.compile(r"[\p{L}'’&]+(?:-\d+)?|\d+")


@cache
def _cut() -> regex.Pattern[str]:
    return regex.compile(r"\s*(?:https?://\S+|(?<=^)RT[ ]@?|\n|[ ]{2,}|:[ ]|[ ]?[@#|][ ]?)\s*")


@cache
def _tail() -> regex.Pattern[str]:
    """`Marco I'll` is `Marco`."""
    return regex.compile(r"(?:[ ](?:I|\p{L}+)['’](?:ll|d|m|re|ve)\b-?)+$")


@cache
def _web() -> regex.Pattern[str]:
    return regex.compile(r"\s*https?://\S+\s*")


@cache
def _surname() -> regex.Pattern[str]:
    return regex.compile(
        r"[ ](?:\p{Lu}\.[ ])?(?P<word>(?!I['’])\p{Lu}[\p{L}\p{M}'’]*\p{Ll}(?:-\p{Lu}[\p{L}\p{M}]+)?)(?![\p{L}\d]|['’]\p{L}|[ ]?:)"
    )


@cache
def _before() -> regex.Pattern[str]:
    return regex.compile(r"(?<![\p{L}\d@#])(?P<word>\p{Lu}\p{L}+)[ ]$")
