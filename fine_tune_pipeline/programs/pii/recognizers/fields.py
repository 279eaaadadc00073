"""What stands behind a label: `Name: …`, `Address: …`, `DOB: …` of forms, mail heads and signatures, whatever it looks like."""

from collections.abc import Collection
from functools import cache

import regex

from fine_tune_pipeline.programs.pii.personal_data import STOP_WORDS, Span
from fine_tune_pipeline.programs.pii.recognizers import addresses
from fine_tune_pipeline.programs.pii.recognizers.lists import either, words

SCORE = 0.7
FEWEST_PHONE_DIGITS = 5
_LONGEST_WORDS = {"PERSON": 5, "LOCATION": 9, "ORGANIZATION": 7, "TITLE": 6}


def find(text: str, entities: Collection[str]) -> list[Span]:
    """Values behind labels."""
    if ":" not in text:
        return []
    spans = []
    for match in _field().finditer(text):
        entity = words().fields[" ".join(match["label"].casefold().split())]
        if entity == "ZIP_CODE" and entity not in entities:
            entity = "LOCATION"
        start, end = match.span("value")
        if entity in entities and _fits(entity, match["value"]):
            span = Span(start, end, entity, SCORE, "pattern")
            spans.append(addresses.grown(span, text) if entity == "LOCATION" else span)
    return spans


def _fits(entity: str, value: str) -> bool:
    """Whether a value may be of this kind: `Name: see below` and `When: soon` say nothing of anybody."""
    parts = value.split()
    if entity in _LONGEST_WORDS:
        few = len(parts) <= _LONGEST_WORDS[entity]
        known = all(part.strip(".,").casefold() in STOP_WORDS | words().no_value for part in parts)
        return few and not known and (entity != "PERSON" or not any(sign.isdigit() or sign == "@" for sign in value))
    digits = sum(sign.isdigit() for sign in value)
    return digits >= (FEWEST_PHONE_DIGITS if entity == "PHONE_NUMBER" else 1) and len(parts) <= 6


@cache
def _field() -> regex.Pattern[str]:
    label = either(words().fields)
    # A value ends with its line, before a gap of two, before the next label, or with its sentence.
    end = rf"[ \t]*(?:$|[\n;|?!]|[ ]{{2}}|\t|(?<!\b\p{{L}}{{1,2}})[.][ \n]|[.]$|,?[ ](?i:{label}|title|e-?mail)[ ]?:|,[ ]\p{{L}}+:|[ ]-[ ])"
    return regex.compile(
        rf"(?:^|(?<=[\n>;|•*]|[.?!,][ ]|[ ]{{2}}))[ \t>\-•*]*(?i:(?P<label>{label}))[ ]?:[ \t]*(?P<value>[^\s:;|][^\n;|?!]*?)(?={end})"
    )
