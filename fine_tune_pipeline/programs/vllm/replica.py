"""One vLLM server over HTTP: the routes that are used, and what can go wrong there as errors that name the replica.

Written from vLLM's documentation and the source of its OpenAI-compatible server; what came back from a real one was not seen.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import httpx

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
class Replica:
    """One server. Several threads may use it at once."""

    url: str
    http: httpx.Client = field(repr=False)
    key: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    def models(self) -> dict[str, Listed]:
        """What it serves, by name.

        Raises:
            ReplicaDown, ReplicaSlow, KeyRefused, ReplicaRefused: it does not say.
        """
        response = self._send("GET", "/v1/models", None, seconds=QUICK_SECONDS)
        if response.status_code != 200:
            self.refuse(response)
        return {each["id"]: _listed(each) for each in self.object_in(response).get("data", ())}

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
        self.refuse(response)

    def unload(self, name: str, *, seconds: float) -> None:
        """Have an adapter forgotten; unknown names are fine.

        Raises:
            ReplicaDown, ReplicaSlow, KeyRefused, ReplicaRefused: it may still be there.
        """
        response = self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name}, seconds=seconds)
        if response.status_code not in (200, 404):
            self.refuse(response)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, *, seconds: float) -> httpx.Response:
        content = None if body is None else json.dumps(body).encode("utf-8")
        headers = self.headers if content is None else {**self.headers, "Content-Type": "application/json"}
        with failures(self.url + path, seconds):
            return self.http.request(method, self.url + path, content=content, headers=headers, timeout=max(seconds, 0.001))

    def object_in(self, response: httpx.Response) -> dict[str, Any]:
        """The JSON object that was answered.

        Raises:
            ReplicaDown: it is something else.
        """
        where = f"{self.url}{response.url.path}"
        try:
            found = response.json()
        except ValueError as error:
            raise ReplicaDown(f"{where}: answered with something else than JSON; is it vLLM's address?") from error
        if not isinstance(found, dict):
            raise ReplicaDown(f"{where}: answered with {type(found).__name__}, want an object; is it vLLM's address?")
        return found

    def refuse(self, response: httpx.Response) -> NoReturn:
        """Raise the error that a response stands for, whose body was read."""
        raise self.error(response.status_code, _said(response))

    def error(self, status: int, said: str) -> ReplicaError:
        """The error that a status stands for."""
        where = f"{self.url}: HTTP {status}: {said}"
        if status in (401, 403):
            return KeyRefused(f"{where}; put the key of vLLM's --api-key into the variable that deployment.vllm.api_key_variable names")
        if status == 404:
            return ModelMissing(where)
        if status == 408:
            return ReplicaSlow(where)
        if status == 429:
            return ReplicaBusy(where)
        return ReplicaRefused(where) if 400 <= status < 500 else ReplicaDown(where)


@contextmanager
def failures(where: str, seconds: float) -> Iterator[None]:
    """What goes wrong on the way, as errors that name the replica."""
    try:
        yield
    except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ReplicaDown(f"{where}: nobody answers ({type(error).__name__})") from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise ReplicaSlow(f"{where}: no answer within {seconds:.1f} seconds") from error
    except httpx.HTTPError as error:
        raise ReplicaDown(f"{where}: nobody answers ({type(error).__name__}: {error})") from error


def _listed(card: Mapping[str, Any]) -> Listed:
    """A model's card: vLLM says where it comes from, Ray Serve LLM has only how long prompt and answer may be, beside."""
    longest = card.get("max_model_len") or (card.get("metadata") or {}).get("max_request_context_length")
    return Listed(card["id"], card.get("root"), card.get("parent"), longest)


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
