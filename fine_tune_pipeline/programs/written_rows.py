"""The answers of one batch while they are written, token by token: each in its own manner.

Letters: B rows, V vocabulary.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.programs.json_guides import JsonGuide, Way
from fine_tune_pipeline.programs.pieces import Pieces
from fine_tune_pipeline.programs.prompts import answer_text, stopped
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.token_scores import TokenScore

NUCLEUS_TOKENS = 512
"""Likeliest tokens among which `top_p` is looked for first: sorting a whole vocabulary of 262,144 words takes as long as a forward pass."""


@dataclass(frozen=True)
class Generated:
    """One answer: its text (see `prompts.answer_text`), the tokens it took (end token included), their mean log-probability in nats,
    and whether it ended by itself. With a closed list of answers also the log-probability of each; where they were asked for, the scores of
    the tokens that the text consists of."""

    text: str
    tokens: int
    logprob: float
    finished: bool
    label_logprobs: dict[str, float] | None = None
    scores: tuple[TokenScore, ...] | None = None


class Ear(Protocol):
    """Who listens while an answer is written."""

    @property
    def stays(self) -> bool: ...

    @property
    def streams(self) -> bool: ...

    def wrote(self, text: str, scores: Sequence[TokenScore]) -> None: ...

    def done(self, answer: object) -> None: ...


class Draw:
    """Draws tokens by inverse transform, with a generator of its own: what else is in the batch changes nothing."""

    def __init__(self, *, temperature: float, top_p: float, seed: int) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._random = random.Random(seed)

    def token(self, logits_V: Tensor) -> int:  # noqa: N803
        """The next token by its logits, where `-inf` is never drawn."""
        probs = (logits_V.double() / self._temperature).softmax(dim=0)
        # In the order of the vocabulary, so that equally likely tokens do not change places by rounding.
        ids = None if self._top_p >= 1 else nucleus(probs, self._top_p)
        kept = probs if ids is None else probs[ids]
        sums = kept.cumsum(dim=0)
        place = int(torch.searchsorted(sums, self._random.random() * sums[-1], right=True))
        # Rounding may put the draw at the very end, behind tokens that have no probability.
        place = min(place, int(kept.nonzero()[-1]))
        return place if ids is None else int(ids[place])


def nucleus(probs_V: Tensor, top_p: float) -> Tensor:  # noqa: N803
    """The fewest tokens that together have the probability `top_p`: ids, ascending."""
    for count in (min(NUCLEUS_TOKENS, len(probs_V)), len(probs_V)):
        found = probs_V.topk(count)
        sums = found.values.cumsum(dim=0)
        needed = int((sums < top_p).sum()) + 1
        if needed <= count:
            return found.indices[:needed].sort().values
    return found.indices.sort().values


@dataclass(frozen=True)
class Manner:
    """How one answer is written: at most so many tokens, ended also by `stop`, inside a schema, drawn instead of the likeliest, with the
    scores of `scores` likeliest tokens of each place, and told to somebody while it grows."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    guide: JsonGuide | None = None
    draw: Draw | None = None
    scores: int | None = None
    ear: Ear | None = None


class Best(NamedTuple):
    """The next token of each row [B], its log-probability [B] in nats, and where rows want scores, the likeliest tokens with theirs."""

    tokens: Tensor
    logprobs: Tensor
    tops: "Sequence[tuple[list[int], list[float]]] | None" = None


class _Scored(NamedTuple):
    """A token as it was written, and where the text ended after it, in characters."""

    id: int
    logprob: float
    top: tuple[list[int], list[float]]
    end: int


@dataclass
class Row:
    """One answer while it is being written; `way` keeps it inside a schema."""

    manner: Manner
    format: PromptFormat
    tokenizer: PreTrainedTokenizerBase
    way: Way | None = None
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finished: bool = False
    answer: Generated | None = None
    _scored: list[_Scored] = field(default_factory=list)
    _shown: int = 0
    _pieces: Pieces | None = None

    @classmethod
    def begin(cls, manner: Manner, *, tokenizer: PreTrainedTokenizerBase, format: PromptFormat) -> "Row":
        """A row of which nothing is written."""
        row = cls(manner, format, tokenizer, way=None if manner.guide is None else manner.guide.begin())
        if manner.ear is not None and manner.ear.streams:
            row._pieces = Pieces(format=format, stop=manner.stop, free=row.way is None)
        return row

    @property
    def by_logits(self) -> bool:
        """Whether the likeliest token alone does not do."""
        return self.way is not None or self.manner.draw is not None or self.manner.scores is not None

    @property
    def open(self) -> bool:
        """Whether another token is wanted."""
        left = self.manner.ear is not None and not self.manner.ear.stays
        return not (self.finished or left or len(self.ids) >= self.manner.max_new_tokens)

    def take(self, token: int, logprob: float, top: tuple[list[int], list[float]] | None, *, ends: set[int]) -> None:
        """Write one token; afterwards the row knows whether it has ended, and its listener what is new."""
        self.ids.append(token)
        self.logprob += logprob
        if self.way is not None:
            self.way.take(token)
        # A schema ends its answers itself, and a text inside it may hold anything.
        self.finished = token in ends or (
            self.way is None and stopped(self.tokenizer.decode(self.ids), format=self.format, stop=self.manner.stop)
        )
        if self.manner.scores is not None:
            assert top is not None
            self._scored.append(_Scored(token, logprob, top, end=len(self._text())))
        self._tell()

    def result(self) -> Generated:
        """The answer as far as it was written."""
        if self.answer is None:
            text = self._text()
            answer = text.strip() if self.way is not None else answer_text(text, format=self.format, stop=self.manner.stop)
            scores = None if self.manner.scores is None else tuple(self._scores(text, answer))
            mean = self.logprob / len(self.ids)
            self.answer = Generated(text=answer, tokens=len(self.ids), logprob=mean, finished=self.finished, scores=scores)
        return self.answer

    def _tell(self) -> None:
        ear = self.manner.ear
        if ear is None or not ear.stays:
            return
        if not self.open:
            answer = self.result()
            tell_whole(ear, answer, pieces=self._pieces, shown=self._shown)
        elif self._pieces is not None and (new := self._pieces.more(self._text())):
            scores = [self._score(scored) for scored in self._scored[self._shown :]]
            self._shown = len(self._scored)
            ear.wrote(new, scores)

    def _text(self) -> str:
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def _scores(self, text: str, answer: str) -> list[TokenScore]:
        """Of the tokens that begin inside the answer: neither the end token nor what a stop string has cut off."""
        last = len(text) - len(text.lstrip()) + len(answer)
        starts = [0, *(scored.end for scored in self._scored[:-1])]
        # What was shown already stays: a piece was sure.
        return [
            self._score(scored)
            for place, (start, scored) in enumerate(zip(starts, self._scored, strict=True))
            if start < last or place < self._shown
        ]

    def _score(self, scored: _Scored) -> TokenScore:
        top = tuple((self._word(id), logprob) for id, logprob in zip(*scored.top, strict=True))
        return TokenScore(self._word(scored.id), scored.logprob, top)

    def _word(self, id: int) -> str:
        text = self.tokenizer.decode([id])
        assert isinstance(text, str)
        return text


def tell_whole(ear: Ear, answer: Generated, *, pieces: Pieces | None = None, shown: int = 0) -> None:
    """Tell a listener what it has not heard of an answer yet, and that this is all."""
    rest = answer.text if pieces is None else pieces.rest(answer.text)
    scores = (answer.scores or ())[shown:]
    if ear.streams and (rest or scores):
        ear.wrote(rest, scores)
    ear.done(answer)


def chosen_by_logits(logits_BV: Tensor, rows: Sequence[Row]) -> Best:  # noqa: N803
    """The next token of each row in its manner; log-probabilities are those of all tokens, also where few may be chosen."""
    total = logits_BV.logsumexp(dim=-1)
    tokens = torch.stack([_chosen(logits, row) for logits, row in zip(logits_BV, rows, strict=True)])
    logprobs = logits_BV.gather(1, tokens[:, None])[:, 0] - total
    if all(row.manner.scores is None for row in rows):
        return Best(tokens, logprobs)
    most = max(row.manner.scores or 0 for row in rows)
    found = (logits_BV - total[:, None]).topk(most, dim=-1)
    tops = [
        (ids[: row.manner.scores or 0], values[: row.manner.scores or 0])
        for ids, values, row in zip(found.indices.tolist(), found.values.tolist(), rows, strict=True)
    ]
    return Best(tokens, logprobs, tops)


def _chosen(logits_V: Tensor, row: Row) -> Tensor:  # noqa: N803
    if row.way is not None:
        allowed = row.way.allowed().to(logits_V.device)
        # A model may have more words than the guide, which then are none of the tokenizer's; or the tokenizer more than the model.
        words = min(len(logits_V), len(allowed))
        logits_V = logits_V[:words].masked_fill(~allowed[:words], -torch.inf)  # noqa: N806
    if row.manner.draw is None:
        return logits_V.argmax()
    return torch.tensor(row.manner.draw.token(logits_V), device=logits_V.device)
