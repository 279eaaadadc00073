"""What is asked of an endpoint, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.passages import Found
from fine_tune_pipeline.programs.serving.versions import Target
from fine_tune_pipeline.programs.serving.wishes import ORDINARY, Wish
from fine_tune_pipeline.programs.token_scores import TokenScore


class TooManyTokens(ValueError):
    """The prompt is longer than the endpoint takes."""


class TooManyWanted(ValueError):
    """The request wants a longer answer than the model was evaluated with."""


@dataclass(frozen=True)
class Question:
    """One request. `system` is a system message, empty if there is none; `probe` marks our own tests; `name` begins the answer's id."""

    asked: Asked
    model: str | None = None
    max_tokens: int | None = None
    system: str = ""
    user: str | None = None
    probe: bool = False
    wish: Wish = ORDINARY
    streams: bool = False
    name: str = "chatcmpl"


@dataclass(frozen=True)
class Answer:
    """What was answered, by whom, from what, and what it cost. `sources` are in the order of the prompt, the nearest last; None where the
    version looks nothing up."""

    id: str
    target: Target
    text: str
    prompt_tokens: int
    new_tokens: int
    finished: bool
    sources: Sequence[Found] | None = None
    scores: Sequence[TokenScore] | None = None
