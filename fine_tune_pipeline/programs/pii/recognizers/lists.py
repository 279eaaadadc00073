"""The word lists of the rules, read once: given names, places, and words that say what a phrase is."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import regex
import yaml


@dataclass(frozen=True)
class Names:
    """Given names that are nothing else, those that are words too, what may stand inside a name, and what is no surname."""

    given: frozenset[str]
    also_words: frozenset[str]
    particles: frozenset[str]
    no_surname: frozenset[str]


@dataclass(frozen=True)
class Places:
    """`countries` may end an address; `anywhere` is found wherever it stands."""

    countries: frozenset[str]
    anywhere: frozenset[str]


@dataclass(frozen=True)
class Words:
    """`fields`: label of a form -> entity of what follows. The others are described in `words.yaml`."""

    fields: dict[str, str]
    nobody: frozenset[str]
    honorifics: frozenset[str]
    job_heads: frozenset[str]
    company_ends: frozenset[str]
    peoples: frozenset[str]
    papers: frozenset[str]
    next_fields: frozenset[str]
    ranks: frozenset[str]
    no_value: frozenset[str]
    named_like_people: frozenset[str]
    street_ends: frozenset[str]
    street_begins: frozenset[str]
    street_after: frozenset[str]
    counted: frozenset[str]


@cache
def names() -> Names:
    """Lists of parts of people's names."""
    return Names(**_sets(_read("names")))


@cache
def places() -> Places:
    """Lists of countries, regions and towns."""
    read = _read("places")
    countries = _phrases(read["countries"])
    return Places(countries=countries | _phrases(read["address_only"]), anywhere=countries | _phrases(read["places"]))


@cache
def words() -> Words:
    """Lists of words that say what a phrase is."""
    read = _read("words")
    fields = {label: entity for entity, labels in read.pop("fields").items() for label in _phrases(labels)}
    nobody = frozenset(word for text in read.pop("nobody").values() for word in text.split())
    return Words(fields=fields, nobody=nobody, **_sets(read))


def either(phrases: Iterable[str]) -> str:
    """A pattern for any of them, the longest first; gaps may be any number of spaces."""
    return "|".join(regex.escape(phrase).replace(r"\ ", "[ ]+") for phrase in sorted(phrases, key=lambda phrase: (-len(phrase), phrase)))


def _sets(read: dict[str, str]) -> dict[str, frozenset[str]]:
    return {part: frozenset(regex.split(r"[,\s]+", text.strip())) for part, text in read.items()}


def _phrases(text: str) -> frozenset[str]:
    return frozenset(" ".join(phrase.split()) for phrase in text.split(",") if phrase.strip())


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load(files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
