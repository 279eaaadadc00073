"""How one client wants its answer, beside what the version does anyway. No torch here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fine_tune_pipeline.programs.decoding_requests import JsonDecoding
from fine_tune_pipeline.programs.token_scores import TokenScore

Ability = Literal["free", "json", "labels", "remote"]
"""What the endpoint's answers are: free text, kept inside a schema, the likeliest of a closed list, or made elsewhere."""


class UnsupportedWish(ValueError):
    """The model cannot keep to what is wished; the message says to what."""


@dataclass(frozen=True)
class Sampling:
    """Tokens are drawn: their probabilities are raised to 1/temperature, then those beyond the likeliest `top_p` are left out. The same
    seed gives the same answer, whatever else is in the batch."""

    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class Wish:
    """One answer: ended also by `stop`, drawn or (without sampling) greedy as in evaluation, inside a schema, with the likeliest
    `top_logprobs` tokens of each place (None: no log-probabilities at all)."""

    stop: tuple[str, ...] = ()
    sampling: Sampling | None = None
    json: JsonDecoding | None = None
    top_logprobs: int | None = None

    @property
    def ordinary(self) -> bool:
        """Whether the likeliest tokens are all that is needed: those answers share batches, which are the fastest."""
        return self.sampling is None and self.json is None and self.top_logprobs is None


ORDINARY = Wish()
"""As evaluation answers."""


class Heard(Protocol):
    """Who listens while an answer is written; called in the model thread."""

    @property
    def stays(self) -> bool:
        """False once nobody waits for the answer any more: it need not be written to its end."""

    @property
    def streams(self) -> bool:
        """Whether pieces are wanted before the whole answer."""

    def when_left(self, call: Callable[[], None]) -> None:
        """Have something called once `stays` is False, for those who cannot look in between."""

    def wrote(self, text: str, scores: Sequence[TokenScore]) -> None: ...

    def done(self, answer: object) -> None:
        """The whole answer, after all pieces."""


@dataclass(frozen=True)
class Wanted:
    """A prompt's tokens, what the answer may take at most, the wish and the listener of its client: what the model thread is given."""

    tokens: Sequence[int]
    max_new_tokens: int
    wish: Wish
    heard: Heard

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[int]:
        return iter(self.tokens)
