"""What stands before every route: keys are asked for before a body is read, none may ask too often, and no body is larger than allowed."""

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fine_tune_pipeline.programs.serving.api_keys import KEY_NAME, ApiKey, KeyFile
from fine_tune_pipeline.programs.serving.contract import ADMIN_KEY_VARIABLE, KEY_VARIABLE
from fine_tune_pipeline.programs.serving.http_errors import error_response
from fine_tune_pipeline.programs.serving.rate_limits import RateLimits

OPEN_PATHS = ("/health", "/ready")
LEAST_KEY_CHARACTERS = 16


class NoKey(Exception):
    """The server would run open to everybody."""


@dataclass(frozen=True)
class Caller:
    """Who asks; `key` is set when it is one of the keys with a name."""

    role: Literal["user", "admin"]
    key: ApiKey | None = None


@dataclass(frozen=True)
class Keys:
    """Who may ask (`user`, and those in the file `named`) and who may change what is served (`admin`). Never shown."""

    user: str = field(repr=False)
    admin: str = field(repr=False)
    named: KeyFile | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> "Keys":
        """The keys that the server was started with.

        Raises:
            NoKey: one is missing or short, or both are the same.
        """
        for name in (KEY_VARIABLE, ADMIN_KEY_VARIABLE):
            seen = len(variables.get(name, ""))
            if seen < LEAST_KEY_CHARACTERS:
                raise NoKey(f"{name}: got {seen} characters, want at least {LEAST_KEY_CHARACTERS}; the server does not run without a key")
        if variables[KEY_VARIABLE] == variables[ADMIN_KEY_VARIABLE]:
            raise NoKey(f"{KEY_VARIABLE} and {ADMIN_KEY_VARIABLE} are the same; whoever may ask could change what is served")
        return cls(user=variables[KEY_VARIABLE], admin=variables[ADMIN_KEY_VARIABLE])

    def with_named(self, folder: Path) -> "Keys":
        """The same, and the keys that lie in the folder of the endpoint's state."""
        return replace(self, named=KeyFile(folder))

    def caller(self, given: str) -> Caller | None:
        """Who has this key, or None; takes the same time whatever was given."""
        is_user, is_admin = _same(given, self.user), _same(given, self.admin)
        holder = None if self.named is None else self.named.holder(given)
        if is_admin or is_user:
            return Caller("admin" if is_admin else "user")
        return None if holder is None else Caller("user", key=holder)

    def role(self, given: str) -> str | None:
        """`user`, `admin`, or None."""
        found = self.caller(given)
        return None if found is None else found.role


class Gate:
    """ASGI middleware: 401 without a good key, 403 for a user at the admin routes, 408 for a body that does not come, 413 for a large one,
    415 for what is not JSON, 429 for a key that asks more often than it may."""

    def __init__(self, app: ASGIApp, *, keys: Keys, body_bytes: int, body_seconds: float) -> None:
        self._app = app
        self._keys = keys
        self._body_bytes = body_bytes
        self._body_seconds = body_seconds
        self._limits = RateLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        caller = self._keys.caller(_bearer(headers))
        refused = self._refusal(scope, headers, None if caller is None else caller.role) or self._too_often(scope, caller)
        if refused is not None:
            await refused(scope, receive, send)
            return
        scope.setdefault("state", {})["admin"] = caller is not None and caller.role == "admin"
        # For the traffic log: this task and all that it starts see it, no other request does.
        KEY_NAME.set(None if caller is None or caller.key is None else caller.key.name)
        await self._app(scope, self._bounded(receive), send)

    def _refusal(self, scope: Scope, headers: Mapping[str, str], role: str | None) -> ASGIApp | None:
        path = scope["path"]
        if path in OPEN_PATHS:
            return None
        if role is None:
            seen = "a key that is not known here" if _bearer(headers) else "no key"
            return error_response(401, f"got {seen}, want the header `Authorization: Bearer <key>`", code="invalid_api_key")
        if path.startswith("/admin") and role != "admin":
            return error_response(403, "this route needs the admin key", code="admin_only")
        if scope["method"] == "POST" and not headers.get("content-type", "").startswith("application/json"):
            return error_response(415, f"Content-Type: got {headers.get('content-type', 'none')}, want application/json")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._body_bytes:
            return error_response(413, self._too_large(int(length)), code="body_too_large")
        return None

    def _too_often(self, scope: Scope, caller: Caller | None) -> ASGIApp | None:
        """Questions and feedback count; looking at models or health does not."""
        if caller is None or caller.key is None or scope["method"] != "POST":
            return None
        wait_seconds = self._limits.wait_seconds(caller.key)
        if not wait_seconds:
            return None
        said = f"the key {caller.key.name} may ask {caller.key.per_minute} times a minute; come again in {wait_seconds} s"
        refused = error_response(429, said, code="rate_limit_exceeded")
        refused.headers["Retry-After"] = str(wait_seconds)
        return refused

    def _bounded(self, receive: Receive) -> Receive:
        """The body, until it is too large or too late: a client may send more than it announced, or nothing more."""
        seen, whole, deadline = 0, False, time.monotonic() + self._body_seconds

        async def bounded() -> Message:
            nonlocal seen, whole
            # Behind the body this says whether the client has left, which takes as long as it stays.
            message = await (receive() if whole else self._in_time(receive, deadline))
            whole = whole or not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self._body_bytes:
                raise HTTPException(413, self._too_large(seen))
            return message

        return bounded

    async def _in_time(self, receive: Receive, deadline: float) -> Message:
        try:
            return await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            said = f"the body was not there whole after {self._body_seconds:g} seconds"
            raise HTTPException(408, said, headers={"Connection": "close"}) from None

    def _too_large(self, seen: int) -> str:
        return f"the body has {seen} bytes or more, at most {self._body_bytes} are taken"


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _same(given: str, key: str) -> bool:
    """Compared as digests, so that not even the length can be found by timing."""
    return hmac.compare_digest(hashlib.sha256(given.encode("utf-8")).digest(), hashlib.sha256(key.encode("utf-8")).digest())
