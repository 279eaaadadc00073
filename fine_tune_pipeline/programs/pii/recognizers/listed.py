"""Names and places by lists, also in small letters: what a small model misses in messages that nobody capitalised."""

from collections.abc import Collection
from functools import cache

import regex

from fine_tune_pipeline.programs.pii.personal_data import Span
from fine_tune_pipeline.programs.pii.recognizers.lists import names, places, words

SCORE = 0.6
GROUPS = {"PERSON": "known_names", "LOCATION": "known_places"}
"""Entity -> group of rules that finds it here."""

_LETTERS = r"[\p{L}\p{M}]+(?:['’\-][\p{L}\p{M}]{2,})*"
_JOINED_BEFORE = frozenset("@/_#.-’'")
_MOST_PARTS = 4
_SHORTEST = 3
"""Letters of a given name in small letters: shorter ones are too often something else (`al`, `bo`, `ed`)."""


def find(text: str, entities: Collection[str]) -> list[Span]:
    """People by given names, places and peoples by their names."""
    written = [word.casefold() for word in _word().findall(text)]
    if _listed().isdisjoint(written) and not any("-" in word and word.partition("-")[0] in _listed() for word in written):
        return []
    spans = _people(text) if "PERSON" in entities else []
    if "LOCATION" in entities:
        spans += _located(text)
    if "NRP" in entities:
        peoples = words().peoples
        spans += [
            Span(match.start(), match.end(), "NRP", SCORE, "pattern")
            for match in _word().finditer(text)
            if match.group().casefold() in peoples
        ]
    return spans


def _located(text: str) -> list[Span]:
    """Places of the list; only where a word begins one is the rest compared."""
    spans, lower, done = [], text.casefold(), 0
    same = len(lower) == len(text)
    for token in _word().finditer(text):
        if token.start() < done:
            continue
        for place in _by_first_word().get(token.group().casefold().partition("-")[0] if same else "", ()):
            end = token.start() + len(place)
            if lower[token.start() : end] == place and not lower[end : end + 1].isalnum() and not _inside_other(text, token):
                spans.append(Span(token.start(), end, "LOCATION", SCORE, "pattern"))
                done = end
                break
    return spans


def _people(text: str) -> list[Span]:
    spans: list[Span] = []
    tokens = list(_word().finditer(text))
    position = 0
    while position < len(tokens):
        last = _name_from(tokens, position, text)
        if last is not None:
            spans.append(Span(tokens[position].start(), tokens[last].end(), "PERSON", SCORE, "pattern"))
            position = last
        position += 1
    return spans


def _name_from(tokens: list[regex.Match[str]], position: int, text: str) -> int | None:
    """The place of the last word of a name that begins here; None if none does."""
    token = tokens[position]
    bare, capital = token.group().casefold(), token.group()[0].isupper()
    if bare in names().given or (capital and bare.partition("-")[0] in names().given):
        if not capital and len(bare) < _SHORTEST:
            return None
        if _inside_other(text, token):
            return None
        return _extended(tokens, position, text, capital=capital)
    if capital and bare in names().also_words and not _inside_other(text, token):
        last = _extended(tokens, position, text, capital=True)
        # `Will Turner`, but not `Will you` and not `Hope Street`.
        street = tokens[last].group().casefold() in words().named_like_people
        return last if last > position and not street and not token.group().isupper() and _starts_no_sentence(text, token) else None
    return None


def _extended(tokens: list[regex.Match[str]], position: int, text: str, *, capital: bool) -> int:
    """The last word of the name: initials, particles and surnames that follow, parted by a space only."""
    last = position
    for following in range(position + 1, min(len(tokens), position + _MOST_PARTS)):
        gap = text[tokens[following - 1].end() : tokens[following].start()]
        word = tokens[following].group()
        if gap != " " and not (gap == ". " and len(tokens[following - 1].group()) == 1):
            break
        bare = word.casefold()
        if bare in names().particles or (len(word) == 1 and word.isalpha() and bare not in "ai"):
            continue
        if (
            bare in names().no_surname
            or bare in words().job_heads
            or _contraction().search(word)
            or not _like(tokens[position].group(), word)
        ):
            break
        if not capital and not _ends_phrase(text, tokens[following], bare):
            break
        last = following
    return last


def _like(first: str, word: str) -> bool:
    """Whether a word is written like the name before it: a capital after a capital, and shouting only after shouting."""
    return word[0].isupper() == first[0].isupper() and (not word.isupper() or first.isupper())


def _ends_phrase(text: str, token: regex.Match[str], bare: str) -> bool:
    """In small letters a surname is one only if the phrase ends with it or a small word follows: `samuel lund is`."""
    if len(bare) < _SHORTEST or not token.group().isalpha():
        return False
    after = _after().match(text, token.end())
    return after is not None and (after["end"] is not None or after["word"].casefold() in names().no_surname)


def _inside_other(text: str, token: regex.Match[str]) -> bool:
    """Whether the word is part of an address of the web, a handle or a file."""
    before, after = text[max(0, token.start() - 1) : token.start()], text[token.end() : token.end() + 2]
    return before in _JOINED_BEFORE or after[:1] in ("@", "/", "_") or (after[:1] == "." and after[1:].isalnum())


def _starts_no_sentence(text: str, token: regex.Match[str]) -> bool:
    before = text[: token.start()].rstrip(" \"'“(")
    return bool(before) and before[-1] not in ".!?\n:"


@cache
def _listed() -> frozenset[str]:
    """Every word with which a finding may begin."""
    return names().given | names().also_words | words().peoples | _by_first_word().keys()


@cache
def _word() -> regex.Pattern[str]:
    return regex.compile(_LETTERS)


@cache
def _contraction() -> regex.Pattern[str]:
    return regex.compile(r"['’](?:ll|d|m|s|re|ve)$", regex.IGNORECASE)


@cache
def _after() -> regex.Pattern[str]:
    return regex.compile(r"(?P<end>\s*(?:[,.;:?!)\n]|$|['’]s\b))|[ ](?P<word>[\p{L}]+)")


@cache
def _by_first_word() -> dict[str, tuple[str, ...]]:
    """First word -> the places that begin with it, the longest first."""
    found: dict[str, list[str]] = {}
    for place in sorted(places().anywhere, key=len, reverse=True):
        if (first := _word().match(place)) is not None:
            found.setdefault(first.group(), []).append(place)
    return {first: tuple(phrases) for first, phrases in found.items()}
