"""Asks a model behind an OpenAI-compatible API: several at a time, with limits on waiting and trying, and nothing twice."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
from tqdm import tqdm

from fine_tune_pipeline.artifacts.replies import Replies
from fine_tune_pipeline.programs.chat_api import ChatApi, NoReply
from fine_tune_pipeline.spec.more import ChatModel


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
        field: what the spec calls the model, for messages.
        wait: called with seconds between two tries.
    """

    spec: ChatModel
    replies: Replies
    wait: Callable[[float], None] = time.sleep
    field: str = "ask"

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
            api = self._api()
            with api.client() as client, ThreadPoolExecutor(self.spec.parallel) as pool:
                for start in tqdm(range(0, len(missing), self.spec.parallel), desc=f"ask {self.spec.model}", unit="round", disable=None):
                    part = missing[start : start + self.spec.parallel]
                    answers = list(pool.map(lambda place: self._one(api, client, requests[place]), part))
                    self._stop_if_all_failed(answers)
                    found.update(zip(part, answers, strict=True))
        return [found[place] for place in range(len(requests))]

    def _request(self, question: Question) -> dict[str, Any]:
        """What decides the answer, as it is sent: never the address or the key."""
        messages = [{"role": "system", "content": question.system}, {"role": "user", "content": question.user}]
        limits = {"temperature": self.spec.temperature, "max_tokens": self.spec.max_tokens}
        return {"model": self.spec.model, "messages": messages, "seed": question.number, **limits}

    def _api(self) -> ChatApi:
        key = os.environ.get(self.spec.key_variable or "")
        if self.spec.key_variable and not key:
            raise NoModelKey(f"{self.field}.key_variable: {self.spec.key_variable} is not set; export it with the key of {self.spec.url}")
        return ChatApi(self.spec.url, key, self.spec.timeout_seconds, self.spec.tries, wait=self.wait)

    def _one(self, api: ChatApi, client: httpx.Client, request: dict[str, Any]) -> str | NoAnswer:
        reply = api.reply(client, request)
        if not isinstance(reply, NoReply):
            self.replies.keep(request, reply)
            return reply
        if reply.reason == "model_refuses_all":
            raise ModelRefused(
                f"{self.spec.url}: answers {reply.detail} to {self.spec.model}: {reply.said}; "
                f"look at {self.field}.url, .model and .key_variable"
            )
        return NoAnswer(reply.reason, str(reply))

    def _stop_if_all_failed(self, answers: Sequence[str | NoAnswer]) -> None:
        failed = [answer for answer in answers if isinstance(answer, NoAnswer) and answer.reason == "model_did_not_answer"]
        if len(failed) == len(answers):
            raise ModelUnreachable(
                f"{self.spec.url}: no answer to any of {len(failed)} questions: {failed[0].detail}; "
                "see that the server runs and try again: what was answered before is kept"
            )
