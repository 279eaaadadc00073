"""Patterns that lean on lists: names after words that announce them, handles, occupations, companies, ages, times."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache

import regex

from fine_tune_pipeline.programs.pii.personal_data import STOP_WORDS, Span
from fine_tune_pipeline.programs.pii.recognizers.lists import either, names, words

_CAPITAL = r"\p{Lu}[\p{L}\p{M}'’]*(?:-\p{L}[\p{L}\p{M}'’]*)*"
_PARTICLE = r"(?:\p{Lu}\.?|(?i:de|del|der|di|da|van|von|den|bin|al|la|le|el))(?=[ ])"
_NAME = rf"{_CAPITAL}(?:[ ]{_PARTICLE}){{0,2}}(?:[ ]{_CAPITAL}){{0,3}}"
_MADE_BY = r"(?i:directed|written|produced|performed|founded|sung|signed|painted|composed|hosted|presented|interviewed)[ ]by:?\s+"
_CALLED = r"(?:starring|named[ ](?:him|her|them|it|me)|married[ ]to|daughter[ ]of|son[ ]of|known[ ]as)[ ]"
_ASKED = r"(?i:\b(?:last|first|full|maiden|sur|given)[ ]?name(?:[ ]is)?[?:]?\s+)"
_ACCOUNT = r"(?i:\bname[ ](?:on|of|in)[ ](?:the[ ]|your[ ])?account(?:[ ]is|\?)?\s+(?:user:\s+)?)"
# `@user` and `@assistant` stand for people whose names are gone; the others call everybody.
_HANDLE = r"(?!(?i:user|assistant|here|channel|everyone|all)\b)[A-Za-z_][A-Za-z0-9_]{2,29}\b(?!\.\w)"
_CUT_BEFORE = r"(?:^|\b(?:RT|via|by|cc|from|and|with|MT)[ ]|[(“\"&+.][ ]?|(?<=@[ ]\w+[ ]))"


@dataclass(frozen=True)
class Rule:
    """One way to write one kind of personal data. The group `it`, or all, is what is found; `keep` may refuse it. `why`: what it adds."""

    entity: str
    expression: str
    score: float
    why: str
    keep: Callable[[str], bool] | None = None


def find(text: str, entities: Collection[str]) -> list[Span]:
    """Spans of these entities by phrases; they may overlap."""
    spans = []
    for rule, pattern in _compiled():
        if rule.entity not in entities:
            continue
        group = "it" if "it" in pattern.groupindex else 0
        spans += [
            Span(*match.span(group), rule.entity, rule.score, "pattern")
            for match in pattern.finditer(text)
            if rule.keep is None or rule.keep(match[group])
        ]
    return spans


def _a_name(found: str) -> bool:
    return found.split()[0].casefold() not in names().no_surname | STOP_WORDS


def _an_occupation(found: str) -> bool:
    return found.split()[-1].casefold() in words().job_heads


def _partners(found: str) -> bool:
    return not any(part.strip(",").casefold() in names().given for part in found.split())


def _with_digit(found: str) -> bool:
    return any(sign.isdigit() for sign in found)


def _company_ends() -> str:
    ends = words().company_ends
    return either({"GmbH", *(end.title() for end in ends), *(end.upper() for end in ends if len(end) < 5)})


def _rules() -> tuple[Rule, ...]:
    jobs, titles = either(words().job_heads), either(words().honorifics)
    company = rf"{_CAPITAL}(?:[ ](?:{_CAPITAL}|&|and|of|-)){{0,4}}(?:,)?[ ](?:{_company_ends()})\b"
    job = rf"(?:[\p{{L}}\-]+[ ]){{0,3}}(?:{jobs})"
    return (
        Rule("PERSON", rf"\b{_MADE_BY}(?P<it>{_NAME})", 0.6, "people behind works and letters", _a_name),
        Rule("PERSON", rf"\b{_CALLED}(?P<it>{_NAME})", 0.5, "people named in a sentence", _a_name),
        Rule("PERSON", rf"{_ASKED}(?P<it>{_NAME})", 0.6, "names after a question for them", _a_name),
        Rule("PERSON", rf"{_ACCOUNT}(?P<it>{_NAME})", 0.6, "the same in a chat", _a_name),
        Rule("PERSON", rf"(?:^|\n)[ \t>]*(?i:dear|hi|hello|hey)[ ](?P<it>{_NAME})(?=[ ]*[,!.\n]|$)", 0.6, "names in a greeting", _a_name),
        Rule("PERSON", rf"\b(?i:add|(?:change|correct)[ ]it[ ]to)[ ](?P<it>{_CAPITAL}[ ]{_NAME})", 0.5, "names for an account", _a_name),
        Rule("PERSON", rf"(?<![\w.@/])@(?P<it>{_HANDLE})", 0.5, "handles of social networks say who somebody is"),
        Rule("PERSON", rf"{_CUT_BEFORE}@[ ](?P<it>{_HANDLE})", 0.5, "the same in text cut into words; `meet @ noon` is none"),
        Rule("PERSON", rf"@[ ](?P<it>(?=[a-z]*[\d_A-Z]){_HANDLE})", 0.5, "the same anywhere, if written like one"),
        Rule("TITLE", rf"(?i:(?<![\p{{L}}\d])(?:{titles})\b\.?)(?=[ ]\p{{L}}{{2,}})", 0.6, "forms of address"),
        Rule(
            "TITLE", r"(?m:^[ \t>]*(?P<it>\p{L}[\p{L},'\-]*(?:[ ][\p{L},/&'\-]+){0,5})[ \t]*$)", 0.5, "occupations on a line of their own",
            _an_occupation,
        ),
        Rule(
            "TITLE", rf"(?i:\bas[ ](?:an?[ ])?(?P<it>{job}))(?=[ ]*[,.;!?]|[ ](?:at|for|in|and|with)\b|$)", 0.5,
            "occupations in a sentence",
        ),
        Rule(
            "ORGANIZATION",
            rf"\b{company}(?:(?<=Inc|Ltd|Corp|Bros|Co|Assoc)\.)?", 0.6,
            "what ends like a company",
        ),
        Rule("ORGANIZATION", rf"\b{_CAPITAL},[ ]{_CAPITAL}[ ]and[ ]{_CAPITAL}(?=[ ]*(?:[.,\n]|$))", 0.4, "partners", _partners),
        Rule("AGE", r"(?i:\b(?P<it>\d{1,3})[ \-]?(?:years?|yrs?|months?)?[ \-]?(?:old|y/?o|yo)\b)", 0.6, "ages"),
        Rule("AGE", r"(?i:\b(?:aged?(?:[ ]of)?:?|turned|turning)[ ](?P<it>\d{1,3})(?![\d:/.,]\d|%|[ ]?[ap]m))\b", 0.6, "ages after a word"),
        Rule(
            "DATE_TIME", r"\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2})?(?:\.\d+)?(?:Z|[+\-]\d{2}:?\d{2})?)?", 0.6,
            "timestamps whole: Presidio finds the day only",
        ),
        Rule(
            "ZIP_CODE", r"(?i:\b(?:zip|post(?:al)?)[ ]?(?:code)?[ ](?:is[ ])?(?P<it>[A-Z\d][A-Z\d\-]{2,8}(?:[ ]\d[A-Z]{2})?))\b", 0.6,
            "postcodes after a word", _with_digit,
        ),
    )  # fmt: skip


@cache
def _compiled() -> tuple[tuple[Rule, regex.Pattern[str]], ...]:
    return tuple((rule, regex.compile(rule.expression)) for rule in _rules())
