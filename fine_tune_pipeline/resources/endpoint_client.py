"""Speaks to an endpoint over HTTP, with nothing but the standard library, and past any proxy of the environment."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.serving.contract import HASH_HEADER, Health, SyncRequest, Table

# Endpoints are near: a proxy for the internet would not find them.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class EndpointError(Exception):
    """The endpoint answered with an error; the message is its own. `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


class Unreachable(Exception):
    """Nobody answers at the address."""


@dataclass(frozen=True)
class ServedAnswer:
    """One answer: the text, which model gave it, the SHA-256 of that model's weights, and the id for feedback. `sources` are what was
    looked up for it (`id`, `title`, `score`), the nearest first."""

    id: str
    text: str
    model: str
    sha256: str
    prompt_tokens: int
    new_tokens: int
    sources: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class EndpointClient:
    """One endpoint. Requests made with the admin key are probes: they do not count as production traffic."""

    url: str
    key: str = field(repr=False)
    admin_key: str = field(default="", repr=False)
    timeout_seconds: float = 150.0

    def health(self, *, timeout_seconds: float = 5.0) -> Health:
        """What the server says of itself, also when it is not well.

        Raises:
            Unreachable: it does not answer at all, or somebody else is at its address.
        """
        try:
            return Health.model_validate(self._send("GET", "/health", timeout_seconds=timeout_seconds)[0])
        except EndpointError as error:
            raise Unreachable(f"{self.url}/health: {error}") from error
        except ValueError as error:
            raise Unreachable(f"{self.url}/health: somebody answers there who is no endpoint of this version") from error

    def answer(self, asked: str | Asked, *, model: str | None = None, user: str | None = None, probe: bool = False) -> ServedAnswer:
        """The answer to one prompt, and what came before it.

        Raises:
            EndpointError, Unreachable: there is none.
        """
        said = Asked(asked) if isinstance(asked, str) else asked
        wished: dict[str, Any] = {"messages": [*said.history, {"role": said.role, "content": said.prompt}]}
        wished |= {name: value for name, value in (("model", model), ("user", user), ("tools", said.tools)) if value}
        body, headers = self._send("POST", "/v1/chat/completions", wished, admin=probe)
        usage = body["usage"]
        return ServedAnswer(
            id=body["id"],
            text=body["choices"][0]["message"]["content"],
            model=body["model"],
            sha256=headers[HASH_HEADER],
            prompt_tokens=usage["prompt_tokens"],
            new_tokens=usage["completion_tokens"],
            sources=body["choices"][0]["message"].get("sources", ()),
        )

    def models(self) -> list[dict[str, Any]]:
        """Names that answer, with hashes and aliases."""
        return self._send("GET", "/v1/models")[0]["data"]

    def feedback(self, request_id: str, *, thumb: str | None = None, corrected: str | None = None, source: str = "user") -> None:
        """Say what an answer was worth, or what it should have been."""
        self._send("POST", "/v1/feedback", {"request_id": request_id, "thumb": thumb, "corrected": corrected, "source": source})

    def sync(self, wished: SyncRequest) -> Table:
        """Load versions and set aliases; the table afterwards.

        Raises:
            EndpointError: status 409, and nothing has changed for those who ask, when a version could not be loaded.
        """
        return Table.model_validate(self._send("POST", "/admin/sync", wished.model_dump(mode="json"), admin=True)[0])

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, admin: bool = False, timeout_seconds: float | None = None
    ) -> tuple[dict[str, Any], Any]:
        headers = {"Authorization": f"Bearer {self.admin_key if admin else self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode("utf-8")
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with _OPENER.open(request, timeout=timeout_seconds or self.timeout_seconds) as response:
                return json.loads(response.read()), response.headers
        except urllib.error.HTTPError as error:
            with error:
                return self._after_error(path, error)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.url}{path}: {getattr(error, 'reason', None) or error}") from error

    def _after_error(self, path: str, error: urllib.error.HTTPError) -> tuple[dict[str, Any], Any]:
        """An error's body; the health route of a server that is not well has an ordinary one."""
        text = error.read()
        try:
            body = json.loads(text)
        except ValueError:
            raise EndpointError(error.code, text[:200].decode("utf-8", errors="replace")) from None
        if path == "/health" and isinstance(body, dict) and "status" in body:
            return body, error.headers
        told = body.get("error") if isinstance(body, dict) else None
        raise EndpointError(error.code, told.get("message", "") if isinstance(told, dict) else str(body)[:200])
