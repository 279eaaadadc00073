"""Asks a model behind an OpenAI-compatible API: several at a time, with limits on waiting and trying, and nothing twice."""

import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
from tqdm import tqdm

from fine_tune_pipeline.artifacts.replies import Replies
from fine_tune_pipeline.spec.more import ChatModel

LONGEST_WAIT_SECONDS = 60.0
"""Between two tries, whatever the server asks for."""

_MAY_PASS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_WRONG_FOR_ALL = frozenset({401, 403, 404, 405})
_SHOWN_CHARACTERS = 200


class NoModelKey(ValueError):
    """The environment variable that must hold the key of a model's API is not set."""


class ModelUnreachable(ConnectionError):
    """The API of a model cannot be reached, or fails every time."""


class ModelRefused(ValueError):
    """The API refuses all requests: a wrong key, address or name of the model."""


@dataclass(frozen=True)
class Question:
    """What is asked: the system's part, the user's, and a number that tells apart several answers to the same."""

    system: str
    user: str
    number: int = 0


@dataclass(frozen=True)
class NoAnswer:
    """Why one question has no answer: a short fixed name, and a sentence."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Chat:
    """A model that can be asked.

    Args of the constructor:
        replies: answers of before.
        wait: called with seconds between two tries.
    """

    spec: ChatModel
    replies: Replies
    wait: Callable[[float], None] = time.sleep

    def answers(self, questions: Sequence[Question]) -> list[str | NoAnswer]:
        """One answer a question, in order. What was answered stays kept when this stops early.

        Raises:
            NoModelKey: the variable for the key is not set.
            ModelRefused: the server says that key, address or model are wrong.
            ModelUnreachable: a whole round of questions found no answer after all tries.
        """
        requests = [self._request(question) for question in questions]
        found: dict[int, str | NoAnswer] = {}
        for place, request in enumerate(requests):
            if (known := self.replies.answer(request)) is not None:
                found[place] = known
        missing = [place for place in range(len(requests)) if place not in found]
        if missing:
            with (
                httpx.Client(headers=self._headers(), timeout=self.spec.timeout_seconds) as client,
                ThreadPoolExecutor(self.spec.parallel) as pool,
            ):
                for start in tqdm(range(0, len(missing), self.spec.parallel), desc=f"ask {self.spec.model}", unit="round", disable=None):
                    part = missing[start : start + self.spec.parallel]
                    answers = list(pool.map(lambda place: self._one(client, requests[place]), part))
                    self._stop_if_all_failed(answers)
                    found.update(zip(part, answers, strict=True))
        return [found[place] for place in range(len(requests))]

    def _request(self, question: Question) -> dict[str, Any]:
        """What decides the answer, as it is sent: never the address or the key."""
        messages = [{"role": "system", "content": question.system}, {"role": "user", "content": question.user}]
        limits = {"temperature": self.spec.temperature, "max_tokens": self.spec.max_tokens}
        return {"model": self.spec.model, "messages": messages, "seed": question.number, **limits}

    def _headers(self) -> dict[str, str]:
        if self.spec.key_variable is None:
            return {}
        key = os.environ.get(self.spec.key_variable)
        if not key:
            raise NoModelKey(f"ask.key_variable: {self.spec.key_variable} is not set; export it with the key of {self.spec.url}")
        return {"Authorization": f"Bearer {key}"}

    def _one(self, client: httpx.Client, request: dict[str, Any]) -> str | NoAnswer:
        answer: str | NoAnswer = NoAnswer("model_did_not_answer", "not tried")
        for number in range(1, self.spec.tries + 1):
            answer, again_in = self._try(client, request, number)
            if again_in is None or number == self.spec.tries:
                break
            self.wait(min(again_in, LONGEST_WAIT_SECONDS))
        if isinstance(answer, str):
            self.replies.keep(request, answer)
        return answer

    def _try(self, client: httpx.Client, request: dict[str, Any], number: int) -> tuple[str | NoAnswer, float | None]:
        """The answer or why there is none, and after how many seconds another try is worth it (None: never)."""
        # Doubled each time, with some chance in it so that parallel requests do not come back together.
        pause = 2 ** (number - 1) * random.uniform(0.5, 1.0)
        try:
            response = client.post(f"{self.spec.url.rstrip('/')}/chat/completions", json=request)
        except httpx.TransportError as error:
            return NoAnswer("model_did_not_answer", f"{type(error).__name__}: {error} ({number} tries)"), pause
        if response.status_code in _WRONG_FOR_ALL:
            raise ModelRefused(
                f"{self.spec.url}: answers {response.status_code} to {self.spec.model}: {_short(response.text)}; "
                "look at ask.url, ask.model and ask.key_variable"
            )
        if response.status_code in _MAY_PASS:
            said = NoAnswer("model_did_not_answer", f"status {response.status_code}: {_short(response.text)} ({number} tries)")
            return said, _retry_after(response) or pause
        if response.is_error:
            return NoAnswer("model_refused", f"status {response.status_code}: {_short(response.text)}"), None
        return _content(response), None

    def _stop_if_all_failed(self, answers: Sequence[str | NoAnswer]) -> None:
        failed = [answer for answer in answers if isinstance(answer, NoAnswer) and answer.reason == "model_did_not_answer"]
        if len(failed) == len(answers):
            raise ModelUnreachable(
                f"{self.spec.url}: no answer to any of {len(failed)} questions: {failed[0].detail}; "
                "see that the server runs and try again: what was answered before is kept"
            )


def _content(response: httpx.Response) -> str | NoAnswer:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        content = None
    if not isinstance(content, str) or not content.strip():
        return NoAnswer("unreadable_answer", f"the answer holds no text at choices[0].message.content: {_short(response.text)}")
    return content.strip()


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + "…"
