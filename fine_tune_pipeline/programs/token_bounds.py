"""Tokens that a text takes at most, without asking a tokenizer: what decides how much is looked up must be the same everywhere."""

import math

FRAME_TOKENS = 8
"""Begin and end token, and the words that frame prompt and answer."""


def most_tokens(text: str) -> int:
    """Tokens that the text takes at most with a usual tokenizer: one for two bytes, and one for each digit, since many cut numbers into
    single digits."""
    return math.ceil(sum(1.0 if character.isdigit() else len(character.encode("utf-8")) / 2 for character in text))
