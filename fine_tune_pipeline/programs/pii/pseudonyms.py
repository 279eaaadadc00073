"""Realistic stand-ins for personal data: the same value gets the same stand-in in every file, process and month that has the same key.

A keyed hash (HMAC-SHA256) of the value picks from tables or gives digits, so nothing is stored and, without the key, nothing can be
looked up. Form stays: case, separators, the country of an IBAN, valid check digits. Names go word by word, so `Doe` is the same person's
name in `Jane Doe` and in `Mrs Doe`. Two values may get the same stand-in: the tables are finite.
"""

import hmac
import unicodedata
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib.resources import files

import regex
import yaml

from fine_tune_pipeline.programs.pii.personal_data import STOP_WORDS
from fine_tune_pipeline.programs.pii.personal_patterns import iban_sum, luhn

_TABLES: dict[str, list[str]] = {
    name: words.split()
    for name, words in yaml.safe_load(files(__package__).joinpath("pseudonyms.yaml").read_text(encoding="utf-8")).items()
}
_KEPT_WORDS = frozenset(_TABLES["kept_words"])
_WORD = regex.compile(r"[\p{L}\p{N}]+(?:['’]\p{L}+)*")
_POSTCODE = regex.compile(r"(?i)\b[a-z]{1,2}\d[a-z\d]? ?\d[a-z]{2}\b")

KEPT_PHONE_DIGITS = 3
"""The first digits of a telephone number say country or area."""


def pseudonym(key: str, entity: str, value: str) -> str | None:
    """The stand-in of a value; None for entities that have none, such as SECRET or NRP."""
    make = _MAKERS.get(entity)
    return None if make is None else make(key, value)


def hashed(key: str, entity: str, value: str) -> str:
    """16 hexadecimal digits that are the same for the same value, case and gaps aside."""
    return _digest(key, entity, _normal(value))[:8].hex()


def _digest(key: str, purpose: str, value: str) -> bytes:
    return hmac.new(key.encode("utf-8"), f"{purpose}\0{value}".encode(), sha256).digest()


def _normal(value: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


def _picks(key: str, purpose: str, value: str) -> Iterator[int]:
    """Endless numbers in 0 to 2^32 that only key, purpose and value decide."""
    block = 0
    while True:
        digest = _digest(key, f"{purpose}:{block}", value)
        yield from (int.from_bytes(digest[place : place + 4]) for place in range(0, len(digest), 4))
        block += 1


def _person(key: str, value: str) -> str:
    return _WORD.sub(lambda match: _name(key, match.group()), value)


def _name(key: str, word: str) -> str:
    plain = _normal(word)
    if plain in _KEPT_WORDS or plain in STOP_WORDS or any(sign.isdigit() for sign in plain):
        return word
    picks = _picks(key, "name", plain)
    if len(plain) == 1:
        return _cased(chr(ord("a") + next(picks) % 26), word)
    if plain in _TABLES["first_names"]:
        return _cased(_picked("first_names", picks), word)
    return _cased(_surname(picks), word)


def _surname(picks: Iterator[int]) -> str:
    return _picked("surname_beginnings", picks) + _picked("surname_endings", picks)


def _picked(table: str, picks: Iterator[int]) -> str:
    words = _TABLES[table]
    return words[next(picks) % len(words)]


def _cased(made: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return made.upper()
    return made.lower() if like.islower() else made.capitalize()


def _location(key: str, value: str) -> str:
    """Numbers, names and postcodes change; `Street`, `Flat` and the like stay."""
    postcode = _POSTCODE.search(value)
    if postcode is not None:
        before, after = value[: postcode.start()], value[postcode.end() :]
        return _location(key, before) + _same_form(key, "postcode", postcode.group()) + _location(key, after)

    def other(match: regex.Match[str]) -> str:
        word = match.group()
        if any(sign.isdigit() for sign in word):
            return _same_form(key, "number", word)
        return word if _normal(word) in _KEPT_WORDS else _cased(_surname(_picks(key, "place", _normal(word))), word)

    return _WORD.sub(other, value)


def _same_form(key: str, purpose: str, value: str, *, keep: int = 0) -> str:
    """Digits for digits and letters for letters, the first `keep` of them as they are; the rest of the signs stays. No number begins with 0
    that did not."""
    bare = [sign for sign in value if sign.isalnum()]
    picks = _picks(key, purpose, _normal("".join(bare)))
    made, seen = [], 0
    for sign in value:
        if not sign.isalnum():
            made.append(sign)
            continue
        seen += 1
        pick = next(picks)
        if seen <= keep:
            made.append(sign)
        elif sign.isdigit():
            made.append(str(1 + pick % 9 if seen == 1 and sign != "0" else pick % 10))
        else:
            made.append(_cased(chr(ord("a") + pick % 26), sign) if sign.islower() else chr(ord("A") + pick % 26))
    return "".join(made)


def _phone(key: str, value: str) -> str:
    return _same_form(key, "phone", value, keep=KEPT_PHONE_DIGITS)


def _email(key: str, value: str) -> str:
    local, _, domain = _normal(value).rpartition("@")
    picks = _picks(key, "email", local)
    name = f"{_picked('first_names', picks)}.{_surname(picks).lower()}{next(picks) % 100}"
    place = _picks(key, "domain", domain)
    return f"{name}@{_surname(place).lower()}.{_picked('mail_domains', place)}"


def _card(key: str, value: str) -> str:
    """The first digit, which says the kind of card, stays; the last makes the sum right."""
    made = _same_form(key, "card", value, keep=1)
    last = max(place for place, sign in enumerate(made) if sign.isdigit())
    return next(text for digit in "0123456789" if luhn(text := made[:last] + digit + made[last + 1 :]))


def _iban(key: str, value: str) -> str:
    """The country stays; the two check digits make the sum right."""
    made = _same_form(key, "iban", value, keep=2)
    places = [place for place, sign in enumerate(made) if sign.isalnum()][2:4]
    for check in range(2, 99):
        text = list(made)
        for place, digit in zip(places, f"{check:02}", strict=True):
            text[place] = digit
        if iban_sum("".join(text)):
            return "".join(text)
    raise AssertionError(f"no check digits fit {made}")


def _ip(key: str, value: str) -> str:
    """An address of the ranges kept for documentation (RFC 5737, RFC 3849)."""
    picks = _picks(key, "ip", _normal(value))
    if ":" in value:
        return "2001:db8:" + ":".join(f"{next(picks) % 0x10000:x}" for _ in range(6))
    net = ("192.0.2", "198.51.100", "203.0.113")[next(picks) % 3]
    return f"{net}.{1 + next(picks) % 254}"


def _ssn(key: str, value: str) -> str:
    """Of the range 900 to 999, which is never issued."""
    digits = [str(pick % 10) for pick, sign in zip(_picks(key, "ssn", _normal(value)), value, strict=False) if sign.isdigit()]
    digits[0] = "9"
    rest = iter(digits)
    return "".join(next(rest) if sign.isdigit() else sign for sign in value)


_MAKERS: dict[str, Callable[[str, str], str]] = {
    "CREDIT_CARD": _card,
    "EMAIL_ADDRESS": _email,
    "IBAN_CODE": _iban,
    "IP_ADDRESS": _ip,
    "LOCATION": _location,
    "PERSON": _person,
    "PHONE_NUMBER": _phone,
    "US_SSN": _ssn,
}
