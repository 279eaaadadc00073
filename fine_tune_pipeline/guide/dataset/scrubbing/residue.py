"""Looks for personal data that was left, with other means than those that took it out: signs that can be checked, not a model.

Nothing here is shared with the scrubber: a check that asks the same code twice finds nothing.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.sources.shape import RESERVED_METADATA
from fine_tune_pipeline.guide.dataset.turns import words

CHECKABLE = ("CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "PHONE_NUMBER")
"""Kinds that can be told from other text by their form and sum alone."""

_CARD = re.compile(r"\d(?:[ .-]?\d){12,18}")
_MAIL = re.compile(r"[^\s@<>\"'(),;:]+@[^\s@<>\"'(),;:]+\.[^\W\d_]{2,}")
_PHONE = re.compile(r"\+\s?\d(?:[\s().-]{0,2}\d){6,14}")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]+){1,9}")
_IBAN_CHARACTERS = range(15, 35)
_IBAN_DIGITS = 8


@dataclass(frozen=True)
class Residue:
    """Rows that still hold identifiers: kind -> ids of examples. Never the identifiers themselves."""

    rows: dict[str, list[str]]
    total: int

    @classmethod
    def together(cls, rows: Iterable[Mapping[str, Sequence[str]]], *, total: int) -> "Residue":
        """Of several sets of examples, `total` in all."""
        found: dict[str, list[str]] = defaultdict(list)
        for some in rows:
            for kind, ids in some.items():
                found[kind] += ids
        return cls(rows=dict(found), total=total)

    @property
    def ids(self) -> list[str]:
        """Every example with something left, once."""
        return list(dict.fromkeys(id_ for ids in self.rows.values() for id_ in ids))

    @property
    def share(self) -> float:
        return len(self.ids) / self.total if self.total else 0.0


def residue(examples: Sequence[Example], entities: Collection[str], *, known: Collection[str] = ()) -> Residue:
    """Checkable identifiers of the given kinds in prompts, completions, earlier turns and metadata.

    Args:
        known: pseudonyms, which look like identifiers and are nobody's.
    """
    nobodys = frozenset(map(_bare, known))
    rows: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        # The steps' own marks are no user's text: a hash of sixteen digits may well pass for a card number.
        columns = [value for name, value in example.metadata.items() if name not in RESERVED_METADATA]
        texts = [example.prompt, example.completion, example.rejected or "", *columns]
        texts += [text for message in example.history for text in words(message)]
        for kind in sorted({kind for text in texts for kind in kinds(text, known=nobodys)}.intersection(entities)):
            rows[kind].append(example.id)
    return Residue(rows=dict(rows), total=len(examples))


def kinds(text: str, *, known: Collection[str] = ()) -> set[str]:
    """Which checkable identifiers a text holds, beside the known ones (as `_bare` gives them)."""
    finders: dict[str, Callable[[str], Iterable[str]]] = {
        "CREDIT_CARD": _cards,
        "EMAIL_ADDRESS": _MAIL.findall,
        "IBAN_CODE": _ibans,
        "PHONE_NUMBER": _PHONE.findall,
    }
    return {kind for kind, find in finders.items() if any(_bare(value) not in known for value in find(text))}


def _bare(value: str) -> str:
    return "".join(sign for sign in value.casefold() if sign.isalnum())


def shown(found: Residue) -> str:
    """A line for people, such as `EMAIL_ADDRESS in 2 rows (m12, m40)`."""
    parts = [f"{kind} in {len(ids)} rows ({', '.join(ids[:5])}{', …' if len(ids) > 5 else ''})" for kind, ids in sorted(found.rows.items())]
    return json.dumps(parts, ensure_ascii=False)[1:-1] if parts else "nothing"


def _cards(text: str) -> Iterator[str]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if _sums_to_ten(digits) and len(set(digits)) > 1 and not _continues(text, match):
            yield digits


def _continues(text: str, match: re.Match[str]) -> bool:
    """Whether the digits are part of a longer number, which is no card."""
    return text[match.start() - 1 : match.start()].isdigit() or text[match.end() : match.end() + 1].isdigit()


def _sums_to_ten(digits: str) -> bool:
    doubled = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    values: Iterable[int] = (int(sign) if place % 2 == 0 else doubled[int(sign)] for place, sign in enumerate(reversed(digits)))
    return sum(values) % 10 == 0


def _ibans(text: str) -> Iterator[str]:
    """IBANs by their sum; groups are taken away from the end until it fits, since words may follow."""
    for match in _IBAN.finditer(text):
        parts = re.split(r"[ -]", match.group())
        for last in range(len(parts), 0, -1):
            number = "".join(parts[:last]).upper()
            enough = len(number) in _IBAN_CHARACTERS and sum(sign.isdigit() for sign in number) >= _IBAN_DIGITS
            if enough and int("".join(str(int(sign, 36)) for sign in number[4:] + number[:4])) % 97 == 1:
                yield number
                break
