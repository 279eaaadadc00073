"""One answer of a vLLM server, whole or as it is written. It is asked for in an event loop: who cancels it closes the request, and vLLM
computes no further.

A stream is read as vLLM's documentation and source have it: an event for each step with the text and the tokens that are new, one with
`finish_reason`, one with `usage`, then `[DONE]`; what fails is an event with `error`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from fine_tune_pipeline.programs.token_scores import TokenScore
from fine_tune_pipeline.programs.vllm.replica import Replica, ReplicaDown, failures

ROUTE = "/v1/completions"

ENDS = ("stop", "length")
"""Of an answer that is whole."""

CONNECT_SECONDS = 5.0
"""Until another replica is tried: they are near."""

Hear = Callable[[str, Sequence[TokenScore]], None]
"""(all that was written so far, the scores of all its tokens)"""


@dataclass(frozen=True)
class Completion:
    """What a model wrote. `logprob` is the mean of its tokens in nats, `scores` are of each; `finished` says that it ended by itself."""

    text: str
    tokens: int
    logprob: float | None
    finished: bool
    scores: tuple[TokenScore, ...] | None = None


async def complete(
    replica: Replica, http: httpx.AsyncClient, body: Mapping[str, Any], *, seconds: float, hear: Hear | None = None
) -> Completion:
    """One answer.

    Args:
        seconds: for all of it.
        hear: told of what is new, as it is written; without it the answer comes whole.

    Raises:
        ReplicaDown, ReplicaSlow, ReplicaBusy, ReplicaRefused, KeyRefused, ModelMissing: there is none, or not its end.
    """
    where = replica.url + ROUTE
    streamed = {} if hear is None else {"stream": True, "stream_options": {"include_usage": True}}
    patience = httpx.Timeout(None, connect=max(min(seconds, CONNECT_SECONDS), 0.001))
    with failures(where, seconds):
        async with (
            asyncio.timeout(seconds),
            http.stream("POST", where, json={**body, **streamed}, headers=replica.headers, timeout=patience) as response,
        ):
            return await _read(replica, response, hear)


async def _read(replica: Replica, response: httpx.Response, hear: Hear | None) -> Completion:
    if response.status_code != 200:
        await response.aread()
        replica.refuse(response)
    growing = _Growing(replica)
    if hear is None or not response.headers.get("content-type", "").startswith("text/event-stream"):
        await response.aread()
        growing.take(replica.object_in(response))
        return growing.whole()
    async for data in events(response.aiter_bytes()):
        growing.take(_object(replica, data))
        hear(growing.text, growing.scores)
    return growing.whole()


async def events(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event, up to `[DONE]`. Only `\\n` ends a line: `str.splitlines` would also cut at what answers may hold,
    such as U+2028."""
    rest = b""
    async for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]":
                    return
                yield data


def _object(replica: Replica, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ReplicaDown(f"{replica.url}{ROUTE}: sent an event that is no JSON; is it vLLM's address?") from error
    if not isinstance(found, dict):
        raise ReplicaDown(f"{replica.url}{ROUTE}: sent an event with {type(found).__name__}, want an object")
    return found


@dataclass
class _Growing:
    """An answer as far as it came: in one object, or in the events of a stream."""

    replica: Replica
    text: str = ""
    scores: list[TokenScore] = field(default_factory=list)
    reason: str | None = None
    tokens: int | None = None

    def take(self, came: Mapping[str, Any]) -> None:
        """What is new.

        Raises:
            ReplicaError: it is an error, or something else.
        """
        if "error" in came:
            raise self._error(came["error"])
        try:
            self.tokens = (came.get("usage") or {}).get("completion_tokens") or self.tokens
            for choice in came.get("choices") or ():
                self.text += choice.get("text") or ""
                self.scores += _scores(choice.get("logprobs") or {})
                self.reason = choice.get("finish_reason")
        except (AttributeError, TypeError) as error:
            raise ReplicaDown(f"{self.replica.url}{ROUTE}: answered with something else than a completion ({error})") from error
        if self.reason not in (None, *ENDS):
            # Such as `abort`, when it is being stopped: the text beside it is no longer sure.
            raise self._broken_off()

    def whole(self) -> Completion:
        """The answer.

        Raises:
            ReplicaDown: it has no end.
        """
        if self.reason is None:
            raise self._broken_off()
        return Completion(
            text=self.text,
            tokens=self.tokens or len(self.scores),
            logprob=sum(score.logprob for score in self.scores) / len(self.scores) if self.scores else None,
            finished=self.reason == "stop",
            scores=tuple(self.scores),
        )

    def _broken_off(self) -> ReplicaDown:
        return ReplicaDown(f"{self.replica.url}: broke an answer off ({self.reason or 'no finish_reason'})")

    def _error(self, error: Any) -> Exception:
        said = error if isinstance(error, dict) else {"message": str(error)}
        code = said.get("code")
        return self.replica.error(code if isinstance(code, int) else 500, str(said.get("message"))[:500])


def _scores(told: Mapping[str, Any]) -> Iterator[TokenScore]:
    """Tokens of `logprobs` as the completions route has them; nothing where it has none."""
    tokens, logprobs = told.get("tokens") or (), told.get("token_logprobs") or ()
    tops = told.get("top_logprobs") or [None] * len(tokens)
    for token, logprob, top in zip(tokens, logprobs, tops, strict=False):
        if logprob is not None:
            yield TokenScore(token, logprob, tuple((top or {}).items()))
