"""Spans of personal data: how they are merged, which of them are no personal data at all, and how they are replaced. No model here."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import regex

Origin = Literal["checksum", "pattern", "model"]

StandIn = Callable[[str, str], str]
"""(entity, value) -> what is written instead."""

_STRENGTH: dict[str, int] = {"checksum": 2, "pattern": 1, "model": 0}
"""Of overlapping findings the strongest names the whole: a sum that adds up is proof, a model guesses."""

_EDGES = " \t\r\n.,;:!?\"'()[]<>*-–—’"

SHORTEST_REPEATED = 4
"""Characters of a value that is looked for elsewhere; shorter parts of a name (`Al`, `May`) are too often other words."""

NO_PERSONAL_DATA: dict[str, str] = {
    "words of banking that the model takes for places or people": (
        "account app apr atm balance bank banking bic bond bonus branch card chip contactless credit cvv debit easy fee iban isa loan "
        "mastercard mortgage overdraft payment paypal pin receipt refund saver savings statement swift transfer visa"
    ),
    "currencies": "cad chf dollar dollars eur euro euros gbp pound pounds quid usd yen",
    "roles, kin and forms of address: they name nobody": (
        "agent auntie brother bro colleague customer customers dad daughter driver gran grandad grandma grandpa hubby landlady landlord "
        "ma'am madam madame manager mate mom mother mr mrs ms mum nan neighbour pa postie postman receptionist services sir sirs sister "
        "solicitor son team teller uncle wife"
    ),
    "greetings and closings": (
        "best bye cheers dear evening faithfully good hello hey hi kind love many morning please regards sincerely ta thank thanks truly "
        "warm wishes yours you"
    ),
    "abbreviations of what is as wide as a country": "america eu europe gb uk us usa",
    "the fictional bank of the built-in use case": "brindle",
    "fillers inside a longer finding": "a an and at for in my of on our the to your",
}
"""Reason -> words. A finding of the model that consists of such words only is left in the text."""

STOP_WORDS = frozenset(word for words in NO_PERSONAL_DATA.values() for word in words.split())


_DOTS = {ord("\u0131"): "i", ord("\u0307"): ""}
"""The letters i without a dot and with a dot of its own, which both match an `i`."""

_WORDS = regex.compile(r"[\p{L}'’]+|\d+")


@dataclass(frozen=True, order=True)
class Span:
    """Personal data from `start` up to `end`, in characters of the text; `entity` is Presidio's name of its type, `score` is in 0 to 1."""

    start: int
    end: int
    entity: str
    score: float = 1.0
    origin: Origin = "model"


class OverlappingSpans(ValueError):
    """Two spans to be replaced overlap: they did not come from `merged`."""


def lowered(text: str) -> str:
    """The text in small letters, so that an ASCII letter stands for all that match it where case does not count."""
    return text.lower() if text.isascii() else text.casefold().translate(_DOTS)


def merged(spans: Iterable[Span], text: str) -> list[Span]:
    """Spans in order, without overlaps: what overlaps becomes one span, named like the strongest of its parts.

    Joining beats choosing: if a pattern hits half of what the model found, dropping the model's span would open the other half.
    Two places with only a comma or a gap between them are one place.
    """
    result: list[Span] = []
    for span in sorted(spans):
        last = result[-1] if result else None
        if last is not None and (span.start < last.end or _one_place(last, span, text)):
            result[-1] = _joined(last, span)
        else:
            result.append(span)
    return result


def plausible(span: Span, text: str) -> Span | None:
    """A finding without the marks at its edges; None if it cannot be personal data.

    What the model calls a person must have a word with a capital and no digit: it takes log lines and lower-case words for names. (Names
    in small letters are lost by that: in 18 of 800 texts of presidio-research; in 646 bank messages all 11 such findings were wrong.)
    """
    found = text[span.start : span.end]
    start = span.start + len(found) - len(found.lstrip(_EDGES))
    end = span.end - (len(found) - len(found.rstrip(_EDGES)))
    if start >= end:
        return None
    kept = text[start:end]
    if all(word in STOP_WORDS for word in _WORDS.findall(kept.casefold())):
        return None
    if span.entity == "PERSON" and span.origin == "model" and not _like_a_name(kept):
        return None
    # Brackets and signs belong to a number: `(312) 555-0147`, `+44 …`.
    return Span(start, end, span.entity, span.score, span.origin) if span.entity in ("PERSON", "LOCATION") else span


def unedged(value: str) -> str:
    """A value without the marks at its edges."""
    return value.strip(_EDGES)


def known(spans: Iterable[Span], text: str, *, allow: Iterable[str] = ()) -> dict[str, str]:
    """What was found in a text, with its type, to be looked for elsewhere too; of people's names also the single words.

    Args:
        allow: values that are not looked for, whatever their case.
    """
    found = {text[span.start : span.end]: span.entity for span in spans}
    parts = [part.strip(_EDGES) for name, entity in found.items() if entity == "PERSON" for part in name.split()]
    names = {part: "PERSON" for part in parts if part[:1].isupper() and part.casefold() not in STOP_WORDS}
    left = {value.casefold() for value in allow}
    return {value: entity for value, entity in (names | found).items() if len(value) >= SHORTEST_REPEATED and value.casefold() not in left}


def repeated(found: Mapping[str, str], text: str, *, besides: Sequence[Span] = ()) -> list[Span]:
    """Every place where a known value stands by itself, spelt the same, outside the spans that are found already.

    Args:
        found: value -> entity, as `known` gives it.
    """
    if not any(_stands_outside(value, text, besides) for value in found):
        return []
    either = "|".join(regex.escape(value) for value in sorted(found, key=len, reverse=True))
    matches = regex.finditer(rf"(?<![\p{{L}}\p{{N}}])(?:{either})(?![\p{{L}}\p{{N}}])", text)
    spans = [Span(match.start(), match.end(), found[match.group()], 0.85, "pattern") for match in matches]
    return [span for span in spans if all(span.end <= other.start or other.end <= span.start for other in besides)]


def type_tag(entity: str, value: str) -> str:
    """What stands for personal data if nothing else was chosen, such as `<PERSON>`."""
    return f"<{entity}>"


def replaced(text: str, spans: Sequence[Span], stand_in: StandIn = type_tag) -> str:
    """The text with each span replaced by what stands for it.

    Raises:
        OverlappingSpans: names both spans.
    """
    parts, done = [], 0
    for before, span in zip([None, *spans], spans, strict=False):
        if span.start < done:
            assert before is not None
            raise OverlappingSpans(
                f"{before.entity} at {before.start}-{before.end} and {span.entity} at {span.start}-{span.end} overlap; merge them first"
            )
        parts += [text[done : span.start], stand_in(span.entity, text[span.start : span.end])]
        done = span.end
    return "".join(parts) + text[done:]


def _stands_outside(value: str, text: str, besides: Sequence[Span]) -> bool:
    """Whether a value may be found outside the spans. Nearly always it is not, and an expression of all values is dear to make."""
    start = text.find(value)
    while start >= 0:
        end = start + len(value)
        inside_word = text[start - 1 : start].isalpha() or text[end : end + 1].isalpha()
        if not inside_word and all(end <= span.start or span.end <= start for span in besides):
            return True
        start = text.find(value, start + 1)
    return False


def _like_a_name(text: str) -> bool:
    return any(word[0].isupper() for word in text.split()) and not any(sign.isdigit() for sign in text)


def _one_place(left: Span, right: Span, text: str) -> bool:
    return left.entity == right.entity == "LOCATION" and not text[left.end : right.start].strip(", \n")


def _joined(left: Span, right: Span) -> Span:
    best = max(left, right, key=lambda span: (_STRENGTH[span.origin], span.score, span.end - span.start))
    return Span(left.start, max(left.end, right.end), best.entity, max(left.score, right.score), best.origin)
