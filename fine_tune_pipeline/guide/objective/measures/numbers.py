"""Numbers in answers: right with their unit and scale, and none that the source does not hold. English notation: 1,234.5."""

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from fine_tune_pipeline.guide.objective.measures.item import Item
from fine_tune_pipeline.guide.objective.measures.objects import leaves
from fine_tune_pipeline.guide.objective.measures.texts import f1
from fine_tune_pipeline.guide.objective.task import parsed

SCALES = {
    "k": 3, "thousand": 3, "m": 6, "mn": 6, "mio": 6, "million": 6, "b": 9, "bn": 9, "billion": 9, "t": 12, "tn": 12, "trillion": 12,
}  # fmt: skip
"""Word after a number -> the power of ten that it means. Single letters count only where no gap is before them: `5m`, but not `5 m`."""

CURRENCIES = {
    "$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "usd": "USD", "eur": "EUR", "gbp": "GBP", "jpy": "JPY", "chf": "CHF",
    "dollar": "USD", "dollars": "USD", "euro": "EUR", "euros": "EUR", "pounds": "GBP", "yen": "JPY",
}  # fmt: skip

PERCENT = {"%": 0, "percent": 0, "per cent": 0, "percentage points": 0, "percentage point": 0, "basis points": -2, "bps": -2}
"""Word after a number -> the power of ten by which it is a percentage: 50 basis points are 0.5 %."""

_SMALL = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
"""
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100}

WORDS = {word: Decimal(value) for value, word in enumerate(_SMALL.split())} | {word: Decimal(value) for word, value in _TENS.items()}
"""What a source may say in words."""

ANOTHER_SCALE = tuple(Decimal(10) ** power for power in (0, 3, 6, 9, 12, 2, -2))
"""A number of the answer may stand in thousands, millions, …, or as a share where the source has a percentage, and the other way round."""

_LONG_SCALES = "|".join(sorted((word for word in SCALES if len(word) > 1), key=len, reverse=True))
_UNITS = "|".join(re.escape(word) for word in sorted({*PERCENT, *(word for word in CURRENCIES if len(word) > 1)}, key=len, reverse=True))
_NUMBER = re.compile(
    rf"""
    (?P<minus>(?<![\w.,)])[-−](?=[$€£¥\d.]))?(?:(?P<sign>[$€£¥])\s?)?
    (?<!\w)(?P<digits>\d{{1,3}}(?:,\d{{3}})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
    (?:(?P<letter>[kmbt])\b|\s?-?(?P<scale>{_LONG_SCALES})\b)?
    (?:\s?-?(?P<unit>%|€|(?:{_UNITS})\b))?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_WORD = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)


class Number(NamedTuple):
    """A number with its scale counted in, and its unit: a currency's code, `%`, or nothing."""

    value: Decimal
    unit: str


def number_match(item: Item) -> float:
    """F1 of the numbers with unit and scale, in JSON by the field in which they stand; 1 where neither text has any."""
    return f1(Counter(_placed(item.prediction)), Counter(_placed(item.reference)))


def unsupported_numbers(item: Item) -> float:
    """Share of the answer's numbers that the prompt does not hold in any scale; 0 where the answer has none."""
    found = [number for _, number in _placed(item.prediction)]
    if not found:
        return 0.0
    known = _known(item.row.question)
    return sum(not any(abs(number.value) * scale in known for scale in ANOTHER_SCALE) for number in found) / len(found)


def numbers_in(text: str) -> Iterator[Number]:
    """The numbers of a text, in order: `-$1.2bn` is -1,200,000,000 USD, `50 basis points` are 0.5 %."""
    for match in _NUMBER.finditer(text):
        unit = (match["unit"] or "").lower()
        scale = SCALES.get((match["letter"] or match["scale"] or "").lower(), 0) + PERCENT.get(unit, 0)
        value = Decimal(match["digits"].replace(",", "")).scaleb(scale)
        named = "%" if unit in PERCENT else CURRENCIES.get((match["sign"] or unit), "")
        yield Number(-value if match["minus"] else value, named)


def _placed(text: str) -> Iterator[tuple[str, Number]]:
    """Numbers with the field in which they stand: that of a JSON object or list, else nothing."""
    answer = parsed(text)
    if not isinstance(answer, dict | list):
        yield from (("", number) for number in numbers_in(text))
        return
    for path, value in leaves(answer):
        yield from ((path, number) for number in _in_leaf(value))


def _in_leaf(value: Any) -> Iterator[Number]:
    if isinstance(value, str):
        yield from numbers_in(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield Number(Decimal(repr(value)), "")


def _known(source: str) -> set[Decimal]:
    """Every number of a source, with its scale and without, whatever its sign."""
    bare = [Decimal(match["digits"].replace(",", "")) for match in _NUMBER.finditer(source)]
    said = [WORDS[match.group().lower()] for match in _WORD.finditer(source)]
    return {abs(number.value) for number in numbers_in(source)} | {*bare, *said}
