"""Answers in the shapes of OpenAI's API: whole, and as the chunks of a stream. Chat and plain completions differ in their choices only."""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal

from fine_tune_pipeline.programs.passages import Found
from fine_tune_pipeline.programs.serving.http_errors import shaped
from fine_tune_pipeline.programs.serving.listening import Part
from fine_tune_pipeline.programs.serving.ongoing import Ongoing
from fine_tune_pipeline.programs.serving.questions import Answer
from fine_tune_pipeline.programs.serving.running import EXPECTED
from fine_tune_pipeline.programs.serving.versions import Target
from fine_tune_pipeline.programs.token_scores import TokenScore

Kind = Literal["chat", "text"]

_OBJECTS = {"chat": ("chat.completion", "chat.completion.chunk"), "text": ("text_completion", "text_completion")}


def whole(answer: Answer, *, kind: Kind, fingerprint: str) -> dict[str, Any]:
    """The body of an answer that comes at once."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": _reason(answer)}
    if kind == "chat":
        choice |= {"message": {"role": "assistant", "content": answer.text, **_sources(answer.sources)}}
        choice |= {"logprobs": None if answer.scores is None else _chat_scores(answer.scores)}
    else:
        choice |= {"text": answer.text, "logprobs": None if answer.scores is None else _text_scores(answer.scores, offset=0)}
    return {**_head(answer.id, answer.target, _OBJECTS[kind][0], fingerprint), "choices": [choice], "usage": _usage(answer)}


class Chunks:
    """One answer as the events of a stream."""

    def __init__(self, ongoing: Ongoing, *, kind: Kind, fingerprint: str, include_usage: bool) -> None:
        self._ongoing = ongoing
        self._kind = kind
        self._include_usage = include_usage
        self._offset = 0
        self._head = _head(ongoing.id, ongoing.target, _OBJECTS[kind][1], fingerprint)
        # Where usage is asked for, each chunk has the field, and only the last a value.
        self._nothing: dict[str, Any] = {"usage": None} if include_usage else {}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Each event as it goes over the wire. What fails before the first piece is raised, what fails later is an event of its own.

        Raises:
            TookTooLong, Draining, ThreadDied, RuntimeError, ValueError, LookupError, OSError: before anything was said.
        """
        begun = False
        async with aclosing(self._ongoing.parts()) as parts:
            try:
                async for part in parts:
                    if not begun and self._kind == "chat":
                        yield self._begin()
                    begun = True
                    yield self._event(self._choice(part))
            except EXPECTED as error:
                if not begun:
                    raise
                yield _data(shaped(error)[1])
                return
        answer = self._ongoing.answer
        if not begun and self._kind == "chat":
            yield self._begin()
        yield self._event(self._last(answer))
        if self._include_usage:
            yield _data({**self._head, "choices": [], "usage": _usage(answer)})
        yield b"data: [DONE]\n\n"

    def _event(self, choice: dict[str, Any]) -> bytes:
        return _data({**self._head, "choices": [{"index": 0, "finish_reason": None, **choice}], **self._nothing})

    def _begin(self) -> bytes:
        return self._event({"delta": {"role": "assistant", "content": "", **_sources(self._ongoing.sources)}, "logprobs": None})

    def _choice(self, part: Part) -> dict[str, Any]:
        if self._kind == "chat":
            return {"delta": {"content": part.text}, "logprobs": _chat_scores(part.scores) if part.scores else None}
        offset, self._offset = self._offset, self._offset + sum(len(score.token) for score in part.scores)
        return {"text": part.text, "logprobs": _text_scores(part.scores, offset=offset) if part.scores else None}

    def _last(self, answer: Answer) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": {}} if self._kind == "chat" else {"text": ""}
        return {**said, "logprobs": None, "finish_reason": _reason(answer)}


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n\n"


def _head(id: str, target: Target, what: str, fingerprint: str) -> dict[str, Any]:
    return {"id": id, "object": what, "created": int(time.time()), "model": target.name, "system_fingerprint": fingerprint}


def _reason(answer: Answer) -> str:
    return "stop" if answer.finished else "length"


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.new_tokens,
        "total_tokens": answer.prompt_tokens + answer.new_tokens,
    }


def _sources(sources: Sequence[Found] | None) -> dict[str, Any]:
    """Of a version that looks passages up, what it was given, the nearest first."""
    if sources is None:
        return {}
    found = [(each.entry, each.score) for each in reversed(sources)]
    return {"sources": [{"id": entry.id, "title": entry.title, "score": round(score, 6)} for entry, score in found]}


def _chat_scores(scores: Sequence[TokenScore]) -> dict[str, Any]:
    content = [
        {**_scored(score.token, score.logprob), "top_logprobs": [_scored(token, logprob) for token, logprob in score.top]}
        for score in scores
    ]
    return {"content": content, "refusal": None}


def _scored(token: str, logprob: float) -> dict[str, Any]:
    # A token that is part of a character has no text of its own.
    whole = "\N{REPLACEMENT CHARACTER}" not in token
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8")) if whole else None}


def _text_scores(scores: Sequence[TokenScore], *, offset: int) -> dict[str, Any]:
    """The older shape; offsets count in what the model wrote, white space at its begin included."""
    # Two tokens may have the same text, such as parts of characters: then the likelier one stands there.
    offsets = []
    for score in scores:
        offsets.append(offset)
        offset += len(score.token)
    return {
        "tokens": [score.token for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [dict(reversed(score.top)) for score in scores],
        "text_offset": offsets,
    }
