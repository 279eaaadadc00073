"""Slips of the fingers in a text: a neighbour on the keyboard, two letters swapped, one missing, one doubled."""

import random
from collections.abc import Callable

import regex

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_WORD = regex.compile(r"(?<!\S)\p{P}*(\p{L}{4,})\p{P}*(?!\S)")
"""Words of four letters and more that stand alone: no numbers, addresses, `<PERSON>`."""


def with_typos(text: str, *, share: float, seed: str) -> str:
    """The text with slips in this share of its words, at least one; as it is if it has no word of four letters.

    Args:
        seed: the same text and seed give the same slips.
    """
    words = [match.span(1) for match in _WORD.finditer(text) if "<" not in match.group()]
    draw = random.Random(f"{seed}\n{text}")
    chosen = draw.sample(words, min(len(words), max(1, round(share * len(words)))))
    for start, end in sorted(chosen, reverse=True):
        text = text[:start] + _slipped(text[start:end], draw) + text[end:]
    return text


def _slipped(word: str, draw: random.Random) -> str:
    # The first letter stays: slips there are rare, and it carries most of the word.
    place = draw.randrange(1, len(word) - 1)
    for slip in draw.sample(_SLIPS, len(_SLIPS)):
        slipped = slip(word, place, draw)
        if slipped != word:
            return slipped
    return word


def _neighbour(word: str, place: int, draw: random.Random) -> str:
    near = NEIGHBOURS.get(word[place].lower())
    if not near:
        return word
    letter = draw.choice(near)
    return word[:place] + (letter.upper() if word[place].isupper() else letter) + word[place + 1 :]


def _swapped(word: str, place: int, draw: random.Random) -> str:
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def _missing(word: str, place: int, draw: random.Random) -> str:
    return word[:place] + word[place + 1 :]


def _doubled(word: str, place: int, draw: random.Random) -> str:
    return word[:place] + word[place] + word[place:]


def _neighbours() -> dict[str, str]:
    """Letter -> letters beside, above and below it on a QWERTY keyboard, whose rows are shifted by about half a key."""
    at = {letter: (row, 2 * column + row) for row, letters in enumerate(_ROWS) for column, letter in enumerate(letters)}
    return {
        letter: "".join(
            other for other, (r, c) in at.items() if other != letter and abs(r - row) <= 1 and abs(c - column) <= (2 if r == row else 1)
        )
        for letter, (row, column) in at.items()
    }


NEIGHBOURS = _neighbours()
_SLIPS: tuple[Callable[[str, int, random.Random], str], ...] = (_neighbour, _swapped, _missing, _doubled)
