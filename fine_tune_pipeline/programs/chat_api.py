"""One model behind an OpenAI-compatible API: tried again where a failure may pass; what went wrong is told in a sentence."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx

LONGEST_WAIT_SECONDS = 60.0
"""Between two tries, whatever the server asks for."""

Reason = Literal["model_did_not_answer", "model_refused", "model_refuses_all", "unreadable_answer"]

_MAY_PASS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_WRONG_FOR_ALL = frozenset({401, 403, 404, 405})
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class NoReply:
    """Why one request has no answer. `said` is what came instead, cut short: it may repeat what was asked. `after` is how it was tried."""

    reason: Reason
    detail: str
    said: str = ""
    after: str = ""

    def __str__(self) -> str:
        return "".join((self.detail, self.said and f": {self.said}", self.after))


@dataclass(frozen=True)
class ChatApi:
    """Where a model is, and how patiently it is asked. Several threads may ask with one client.

    Args of the constructor:
        key: sent as bearer token; None: no key is sent.
        wait: called with seconds between two tries.
    """

    url: str
    key: str | None
    timeout_seconds: float
    tries: int
    wait: Callable[[float], None] = time.sleep

    def client(self) -> httpx.Client:
        """A client with the key; it is a context manager."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(headers=headers, timeout=self.timeout_seconds)

    def reply(self, client: httpx.Client, request: Mapping[str, Any]) -> str | NoReply:
        """The text of the answer, without gaps around it, or why there is none."""
        number = 1
        while True:
            reply, again_in = self._try(client, request, number)
            if again_in is None or number >= self.tries:
                return reply
            self.wait(min(again_in, LONGEST_WAIT_SECONDS))
            number += 1

    def _try(self, client: httpx.Client, request: Mapping[str, Any], number: int) -> tuple[str | NoReply, float | None]:
        """The answer or why there is none, and after how many seconds another try is worth it (None: never)."""
        # Doubled each time, with some chance in it so that parallel requests do not come back together.
        pause, tries = 2 ** (number - 1) * random.uniform(0.5, 1.0), f" ({number} tries)"
        try:
            response = client.post(f"{self.url.rstrip('/')}/chat/completions", json=request)
        except httpx.TransportError as error:
            return NoReply("model_did_not_answer", f"{type(error).__name__}: {error}", after=tries), pause
        status, said = response.status_code, _short(response.text)
        if status in _WRONG_FOR_ALL:
            return NoReply("model_refuses_all", f"status {status}", said), None
        if status in _MAY_PASS:
            return NoReply("model_did_not_answer", f"status {status}", said, tries), _retry_after(response) or pause
        if response.is_error:
            return NoReply("model_refused", f"status {status}", said), None
        return _content(response), None


def _content(response: httpx.Response) -> str | NoReply:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        content = None
    if not isinstance(content, str) or not content.strip():
        return NoReply("unreadable_answer", "the answer holds no text at choices[0].message.content", _short(response.text))
    return content.strip()


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + "…"
