"""One vLLM server over HTTP: the routes that are used, and what can go wrong there as errors that name the replica.

Written from vLLM's documentation and the source of its OpenAI-compatible server; what came back from a real one was not seen.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import httpx

from fine_tune_pipeline.programs.token_scores import TokenScore

QUICK_SECONDS = 10.0
"""For routes that compute nothing."""


class ReplicaError(Exception):
    """A replica did not do what was asked; the message names it."""


class ReplicaDown(ReplicaError):
    """It cannot be reached, is being stopped, or fails by itself: another one may answer."""


class ReplicaSlow(ReplicaError):
    """It did not answer in time."""


class ReplicaBusy(ReplicaError):
    """It asks for patience."""


class ReplicaRefused(ReplicaError):
    """It read the request and does not take it."""


class KeyRefused(ReplicaError):
    """It does not take the key."""


class ModelMissing(ReplicaError):
    """It does not have a model of this name."""


class AdapterRefused(ReplicaError, ValueError):
    """It does not load the adapter."""


class NoRuntimeLoading(AdapterRefused):
    """It was started without leave to load adapters while it runs."""


@dataclass(frozen=True)
class Listed:
    """A model that a replica has. `root` is the path that it was loaded from; `parent` is the base of an adapter, None for a base."""

    name: str
    root: str | None
    parent: str | None
    max_model_len: int | None


@dataclass(frozen=True)
class Completion:
    """What a model wrote. `logprob` is the mean of its tokens in nats, `scores` are of each; `finished` says that it ended by itself."""

    text: str
    tokens: int
    logprob: float | None
    finished: bool
    scores: tuple[TokenScore, ...] | None = None


@dataclass(frozen=True)
class Replica:
    """One server. Several threads may use it at once."""

    url: str
    http: httpx.Client = field(repr=False)
    key: str | None = field(default=None, repr=False)

    def models(self) -> dict[str, Listed]:
        """What it serves, by name.

        Raises:
            ReplicaDown, ReplicaSlow, KeyRefused, ReplicaRefused: it does not say.
        """
        body = self._json("GET", "/v1/models", None, seconds=QUICK_SECONDS)
        return {
            each["id"]: Listed(each["id"], each.get("root"), each.get("parent"), each.get("max_model_len")) for each in body.get("data", ())
        }

    def complete(self, body: Mapping[str, Any], *, seconds: float) -> Completion:
        """One answer.

        Raises:
            ReplicaDown, ReplicaSlow, ReplicaBusy, ReplicaRefused, KeyRefused, ModelMissing: there is none.
        """
        came = self._json("POST", "/v1/completions", body, seconds=seconds)
        choice = came["choices"][0]
        if choice.get("finish_reason") not in ("stop", "length"):
            # Such as `abort`, when it is being stopped.
            raise ReplicaDown(f"{self.url}: broke an answer off ({choice.get('finish_reason')})")
        told = choice.get("logprobs") or {}
        scored = [value for value in told.get("token_logprobs") or () if value is not None]
        return Completion(
            text=choice["text"],
            tokens=(came.get("usage") or {}).get("completion_tokens") or len(scored),
            logprob=sum(scored) / len(scored) if scored else None,
            finished=choice["finish_reason"] == "stop",
            scores=tuple(_scores(told)),
        )

    def load(self, name: str, path: str, *, seconds: float) -> None:
        """Have an adapter loaded beside the others; it is there when this returns.

        Raises:
            NoRuntimeLoading, AdapterRefused: it stays without.
            ReplicaDown, ReplicaSlow, KeyRefused: nobody knows.
        """
        response = self._send(
            "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, "load_inplace": False}, seconds=seconds
        )
        if response.status_code == 200:
            return
        said = _said(response)
        if response.status_code in (404, 405) and not _is_vllm_error(response):
            raise NoRuntimeLoading(
                f"{self.url}: has no route to load adapters; start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or "
                "write deployment.vllm.mode: static"
            )
        if response.status_code in (400, 404, 422):
            raise AdapterRefused(f"{self.url}: does not load {name} from {path}: {said}")
        self._refuse(response)

    def unload(self, name: str, *, seconds: float) -> None:
        """Have an adapter forgotten; unknown names are fine.

        Raises:
            ReplicaDown, ReplicaSlow, KeyRefused, ReplicaRefused: it may still be there.
        """
        response = self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name}, seconds=seconds)
        if response.status_code not in (200, 404):
            self._refuse(response)

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None, *, seconds: float) -> dict[str, Any]:
        response = self._send(method, path, body, seconds=seconds)
        if response.status_code != 200:
            self._refuse(response)
        try:
            found = response.json()
        except ValueError as error:
            raise ReplicaDown(f"{self.url}{path}: answered with something else than JSON; is it vLLM's address?") from error
        if not isinstance(found, dict):
            raise ReplicaDown(f"{self.url}{path}: answered with {type(found).__name__}, want an object; is it vLLM's address?")
        return found

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, *, seconds: float) -> httpx.Response:
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        content = None if body is None else json.dumps(body).encode("utf-8")
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            return self.http.request(method, self.url + path, content=content, headers=headers, timeout=max(seconds, 0.001))
        except httpx.ConnectTimeout as error:
            raise ReplicaDown(f"{self.url}{path}: nobody answers ({type(error).__name__})") from error
        except httpx.TimeoutException as error:
            raise ReplicaSlow(f"{self.url}{path}: no answer within {seconds:.1f} seconds") from error
        except httpx.HTTPError as error:
            raise ReplicaDown(f"{self.url}{path}: nobody answers ({type(error).__name__}: {error})") from error

    def _refuse(self, response: httpx.Response) -> NoReturn:
        """The error that a status stands for."""
        status, said = response.status_code, _said(response)
        where = f"{self.url}: HTTP {status}: {said}"
        if status in (401, 403):
            raise KeyRefused(f"{where}; put the key of vLLM's --api-key into the variable that deployment.vllm.api_key_variable names")
        if status == 404:
            raise ModelMissing(where)
        if status == 429:
            raise ReplicaBusy(where)
        if 400 <= status < 500:
            raise ReplicaRefused(where)
        raise ReplicaDown(where)


def _scores(told: Mapping[str, Any]) -> Iterator[TokenScore]:
    """Tokens of `logprobs` as the completions route has them; nothing where it has none."""
    tokens, logprobs = told.get("tokens") or (), told.get("token_logprobs") or ()
    tops = told.get("top_logprobs") or [None] * len(tokens)
    for token, logprob, top in zip(tokens, logprobs, tops, strict=False):
        if logprob is not None:
            yield TokenScore(token, logprob, tuple((top or {}).items()))


def _said(response: httpx.Response) -> str:
    """vLLM's own words; errors have been `{"error": {"message"}}` and, in older versions, `{"message"}`."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:200] or "nothing"
    if not isinstance(body, dict):
        return str(body)[:200]
    error = body.get("error")
    inner = error.get("message") if isinstance(error, dict) else None
    return str(inner or body.get("message") or body.get("detail") or body)[:500]


def _is_vllm_error(response: httpx.Response) -> bool:
    """Whether a route answered; without one there is only the web framework's `detail`."""
    try:
        body = response.json()
    except ValueError:
        return False
    return isinstance(body, dict) and ("error" in body or "message" in body)
