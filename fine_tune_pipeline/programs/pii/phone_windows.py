"""Presidio's phone recogniser on the digits of a text only, and only for regions where a number can be valid: the same findings.

The recogniser looks through the whole text once per region. Here a text is cut into windows around its digits first; a window that one
region takes as a whole is done, and a region is asked only if some run of the window's digits is a valid number there.
"""

import copy
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple

import phonenumbers
import regex
from phonenumbers import PhoneMetadata, PhoneNumber
from presidio_analyzer import RecognizerResult
from presidio_analyzer.predefined_recognizers import PhoneRecognizer

_LEAD = 12
"""Characters before the first digit: ten that may belong to the number (brackets, plus signs, gaps), one that is looked at."""
_TAIL = 5
"""Characters after the last digit that are looked at: a `#`, and one more."""
_LONGEST_RUN = 20
"""Digits without a gap that `phonenumbers` takes for one number; what it makes of more is left to it."""
_LONGEST_NUMBER = 17
_MOST_RUNS = 12

# What may stand between two digits of one number: signs, and one word for an extension (`ext.`, `extensión`, `anexo`, `int`, `;ext=`) among
# them. Wider than what `phonenumbers` takes; where even this does not fit, two numbers are apart.
_SIGNS = (
    r"[+\uff0b()\[\]\uff08\uff09\uff3b\uff3d\-x\uff58\u2010-\u2015\u2212\u30fc\uff0d-\uff0f\u00a0\u00ad\u200b\u2060\u3000"
    r" ./~\u2053\u223c\uff5e,:\t#\uff03]*"
)
_JOINS = regex.compile(
    rf"{_SIGNS}(?:[;=a-z\u00f3\u0301\u0434\u043e\u0431\uff45\uff58\uff54\uff4e\uff49]{{1,16}}{_SIGNS})?", regex.IGNORECASE
)

_DIGITS = regex.compile(r"\d+")


class _Window(NamedTuple):
    text: str
    start: int
    first: int
    """Place of the first digit in the window, and after the last."""
    last: int


class PhoneWindows:
    """One recogniser, asked less often. Results are its own."""

    def __init__(self, recognizer: PhoneRecognizer) -> None:
        self._regions = tuple(recognizer.supported_regions)
        self._strict = (recognizer.leniency or 0) >= 1
        self._fewest = min((_fewest_digits(region) for region in self._regions), default=0) if self._strict else 1
        self._by_region = {}
        for region in self._regions:
            one = copy.copy(recognizer)
            one.supported_regions = (region,)
            self._by_region[region] = one

    def __call__(self, text: str, entities: list[str]) -> list[RecognizerResult]:
        """What the recogniser would find in the text; duplicates and numbers inside of others may be left out."""
        found = []
        for window in _windows(text, fewest=self._fewest):
            for result in self._of_window(window, entities):
                result.start += window.start
                result.end += window.start
                found.append(result)
        return found

    def _of_window(self, window: _Window, entities: list[str]) -> list[RecognizerResult]:
        found: list[RecognizerResult] = []
        runs = _runs(window) if self._strict else None
        for region in self._regions:
            if runs is not None and not _may_be_valid(region, runs):
                continue
            results = self._by_region[region].analyze(window.text, entities)
            found += results
            whole = any(result.start <= window.first and result.end >= window.last for result in results)
            if whole and "#" not in window.text:
                # What other regions make of these digits lies inside, with the same score.
                break
        return found


def _windows(text: str, *, fewest: int) -> Iterator[_Window]:
    """Stretches of text that hold all digits of a number, with all that `phonenumbers` looks at around them, but no other digits."""
    groups: list[list[int]] = []
    for match in _DIGITS.finditer(text):
        start, end = match.span()
        if groups and _JOINS.fullmatch(text, groups[-1][1], start):
            groups[-1][1:] = [end, groups[-1][2] + end - start]
        else:
            groups.append([start, end, end - start])
    ends = [0, *(end for _, end, _ in groups)]
    starts = [*(start for start, _, _ in groups[1:]), len(text)]
    for (first, last, digits), before, after in zip(groups, ends, starts, strict=False):
        if digits >= fewest:
            start = max(before, first - _LEAD)
            yield _Window(text[start : min(after, last + _TAIL)], start, first - start, last - start)


@lru_cache(maxsize=4096)
def _runs_of(text: str) -> tuple[str, ...] | None:
    found = _DIGITS.findall(text)
    if len(found) > _MOST_RUNS or any(len(run) > _LONGEST_RUN for run in found):
        return None
    return tuple("".join(str(unicodedata.digit(sign)) for sign in run) for run in found)


def _runs(window: _Window) -> tuple[str, ...] | None:
    """All digit strings that a number in this window can have: neighbouring runs joined. None if anything may be one."""
    if "+" in window.text or "\uff0b" in window.text or "#" in window.text:
        return None
    runs = _runs_of(window.text)
    if runs is None:
        return None
    joined = ("".join(runs[start:end]) for start in range(len(runs)) for end in range(start + 1, len(runs) + 1))
    return tuple(digits for digits in joined if len(digits) <= _LONGEST_NUMBER + 10)


def _may_be_valid(region: str, runs: tuple[str, ...]) -> bool:
    fewest = _fewest_digits(region)
    return any(len(digits) >= fewest and _valid(region, digits) for digits in runs)


@lru_cache(maxsize=65536)
def _valid(region: str, digits: str) -> bool:
    """Whether digits, written without a plus sign, may be a valid number to someone in the region; true if it cannot be told."""
    metadata = PhoneMetadata.metadata_for_region(region)
    if metadata is None or _made(metadata.international_prefix or "$.").match(digits):
        return True
    code = str(metadata.country_code)
    nationals = {digits, digits.removeprefix(code)}
    # The library takes a prefix such as `0` off up to twice.
    for _ in range(2):
        matches = [(national, _made(metadata.national_prefix_for_parsing or "$.").match(national)) for national in nationals]
        if metadata.national_prefix_transform_rule and any(match and match.group() for _, match in matches):
            return True
        nationals |= {national[match.end() :] for national, match in matches if match}
    return any(_is_number(int(code), national) for national in nationals)


@cache
def _made(expression: str) -> regex.Pattern[str]:
    return regex.compile(expression)


def _is_number(country_code: int, national: str) -> bool:
    if not 2 <= len(national) <= _LONGEST_NUMBER or len(national) not in _lengths(country_code):
        return False
    zeros = min(len(national) - len(national.lstrip("0")), len(national) - 1)
    number = PhoneNumber(country_code=country_code, national_number=int(national))
    if zeros:
        number.italian_leading_zero, number.number_of_leading_zeros = True, zeros
    return bool(phonenumbers.is_valid_number(number))


@lru_cache(maxsize=512)
def _lengths(country_code: int) -> frozenset[int]:
    """How many digits a valid number of this country code may have, zeros at its start counted."""
    regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(country_code, ())
    known = [PhoneMetadata.metadata_for_region_or_calling_code(country_code, region) for region in regions]
    possible = [each.general_desc.possible_length for each in known if each is not None and each.general_desc is not None]
    # None given: any.
    return frozenset(length for lengths in possible for length in lengths or range(_LONGEST_NUMBER + 1))


@lru_cache(maxsize=512)
def _fewest_digits(region: str) -> int:
    """The fewest digits of a valid number, in this region or from it."""
    metadata = PhoneMetadata.metadata_for_region(region)
    return 1 if metadata is None else min(_fewest(metadata), _fewest_abroad())


@lru_cache(maxsize=1)
def _fewest_abroad() -> int:
    """The fewest digits of a number that is written with its country code."""
    known = [PhoneMetadata.metadata_for_region(region) for region in phonenumbers.SUPPORTED_REGIONS]
    known += [PhoneMetadata.metadata_for_nongeo_region(code) for code in phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS]
    return min(len(str(each.country_code)) + _fewest(each) for each in known if each is not None)


def _fewest(metadata: PhoneMetadata) -> int:
    lengths = metadata.general_desc.possible_length if metadata.general_desc is not None else ()
    return min(lengths, default=1)
