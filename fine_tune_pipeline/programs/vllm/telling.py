"""An answer on its way from vLLM to who listens: in pieces that are sure, each with the scores of the tokens that it is made of."""

from collections.abc import Sequence

from fine_tune_pipeline.programs.pieces import Pieces
from fine_tune_pipeline.programs.serving.wishes import Heard
from fine_tune_pipeline.programs.token_scores import TokenScore
from fine_tune_pipeline.programs.vllm.completions import Completion


class Telling:
    """One answer, told while it grows. Before its first piece it may begin anew at another replica."""

    def __init__(self, heard: Heard, *, pieces: Pieces, top: int | None) -> None:
        """
        Args:
            top: likeliest tokens of each place; None: no scores are wanted.
        """
        self._heard = heard
        self._pieces = pieces
        self._top = top
        self._said = ""
        self._shown = 0

    @property
    def begun(self) -> bool:
        """Whether something was said, which cannot be taken back."""
        return bool(self._said)

    def hear(self, text: str, scores: Sequence[TokenScore]) -> None:
        """Say what is sure by now.

        Args:
            text: all that was written so far.
            scores: of all its tokens.
        """
        if new := self._pieces.more(text):
            self._said += new
            due = () if self._top is None else inside(scores, text=text, answer=self._said, top=self._top)
            self._tell(new, due)

    def rest(self, answer: Completion) -> None:
        """Say what the whole answer has beyond."""
        new, scores = self._pieces.rest(answer.text), answer.scores or ()
        if new or len(scores) > self._shown:
            self._tell(new, scores)

    def _tell(self, new: str, scores: Sequence[TokenScore]) -> None:
        shown, self._shown = self._shown, len(scores)
        self._heard.wrote(new, scores[shown:])


def inside(scores: Sequence[TokenScore], *, text: str, answer: str, top: int) -> tuple[TokenScore, ...]:
    """Scores of the tokens that begin inside the answer, each with its `top` likeliest: no end token, nothing behind a stop string.

    Args:
        scores: of all tokens of `text`, which has white space and more around the answer.
    """
    last = len(text) - len(text.lstrip()) + len(answer)
    start, found = 0, []
    for score in scores:
        if start >= last:
            break
        likeliest = sorted(score.top, key=lambda each: -each[1])[:top]
        found.append(score._replace(top=tuple(likeliest)))
        start += len(score.token)
    return tuple(found)
