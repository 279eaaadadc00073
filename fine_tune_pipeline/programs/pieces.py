"""An answer while it grows: what of it is sure already, so that pieces put together are the whole answer. No torch here."""

from collections.abc import Sequence

from fine_tune_pipeline.programs.prompts import stops
from fine_tune_pipeline.programs.requests import PromptFormat

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What decoding writes for the bytes of a character that has not all its tokens yet."""


class Pieces:
    """Cuts a growing text into pieces."""

    def __init__(self, *, format: PromptFormat, stop: Sequence[str] = (), free: bool = True) -> None:
        """
        Args:
            stop: as for `prompts.answer_text`.
            free: False inside a schema, whose texts may hold anything: only white space around the answer goes.
        """
        self._first = stops(format) if free else ()
        self._stop = tuple(stop) if free else ()
        self._said = ""

    def more(self, generated: str) -> str:
        """What can be said beyond the pieces before, of all that was generated so far."""
        return self._beyond(self._sure(generated))

    def rest(self, answer: str) -> str:
        """The last piece: what the whole answer has beyond the pieces before."""
        return self._beyond(answer)

    def _beyond(self, text: str) -> str:
        if not text.startswith(self._said):
            return ""
        new, self._said = text[len(self._said) :], text
        return new

    def _sure(self, generated: str) -> str:
        text = generated.rstrip(UNFINISHED)
        for each in self._first:
            text = before(text, each)
        text = text.lstrip()
        for each in self._stop:
            text = before(text, each)
        # White space at the end belongs to the answer only if something follows.
        return text.rstrip()


def before(text: str, stop: str) -> str:
    """The text up to the stop string, or up to what may become it."""
    found = text.find(stop)
    if found >= 0:
        return text[:found]
    longest = min(len(stop) - 1, len(text))
    held = next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
    return text[: len(text) - held]
