"""What a model said of one token that it wrote. No torch here."""

from typing import NamedTuple


class TokenScore(NamedTuple):
    """A token's text, its log-probability in nats (temperature 1, whatever it was drawn at), and the likeliest tokens of that place,
    falling."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
