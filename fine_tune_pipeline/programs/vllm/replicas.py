"""Several vLLM servers of one base model: which is asked next, which are left alone for a while, and where they are now."""

import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import httpx

from fine_tune_pipeline.programs.vllm.replica import Replica, ReplicaDown
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream

REST_SECONDS = 5.0
"""A replica that failed is asked only if no other is left, for so long."""

LOOK_UP_SECONDS = 5.0
"""Between two look-ups of a name."""

KEEP_ALIVE_SECONDS = 2.0
"""An idle connection is kept: shorter than the 5 s after which vLLM closes it, which would look like a failure."""

Resolve = Callable[[str, int], Sequence[str]]


class NoVllmKey(Exception):
    """The environment variable that should hold the key is empty."""


def addresses_of(name: str, port: int) -> list[str]:
    """Every address of a name, those of version 6 in brackets; empty while it has none."""
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    hosts = [str(address[0]) for *_, address in found]
    return sorted({f"[{host}]" if ":" in host else host for host in hosts})


def key_of(upstream: VllmUpstream, variables: Mapping[str, str] = os.environ) -> str | None:
    """The servers' key; None when they ask for none.

    Raises:
        NoVllmKey: names the variable.
    """
    if upstream.api_key_variable is None:
        return None
    key = variables.get(upstream.api_key_variable, "").strip()
    if not key:
        raise NoVllmKey(
            f"environment variable {upstream.api_key_variable} is empty; put the key of vLLM's --api-key there, or write "
            "deployment.vllm.api_key_variable: null if it has none"
        )
    return key


class Replicas:
    """The servers, each with how many requests it answers right now."""

    def __init__(self, upstream: VllmUpstream, *, key: str | None, resolve: Resolve = addresses_of) -> None:
        self._upstream = upstream
        self._key = key
        self._resolve = resolve
        # They are near: a proxy for the internet would not find them.
        self._http = httpx.Client(
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_SECONDS),
        )
        self._guard = threading.Lock()
        self._asked: Counter[str] = Counter()
        self._rest_until: dict[str, float] = {}
        self._known: list[Replica] = []
        self._looked_up = -LOOK_UP_SECONDS

    def close(self) -> None:
        self._http.close()

    def all(self) -> list[Replica]:
        """Every replica that is there now.

        Raises:
            ReplicaDown: no name of `urls` has an address.
        """
        with self._guard:
            old = self._upstream.replicas == "dns" and time.monotonic() - self._looked_up >= LOOK_UP_SECONDS
            if old or not self._known:
                # A name server that is away for a moment takes no replica with it.
                self._known = [self._replica(url) for url in self._urls()] or self._known
                self._looked_up = time.monotonic()
            if not self._known:
                raise ReplicaDown(f"{', '.join(self._upstream.urls)}: has no address; is a server of that name running?")
            return list(self._known)

    def next(self, tried: Sequence[str]) -> Replica:
        """The one to ask: not tried yet (by its URL), not at rest, with the fewest requests; of equals any.

        Raises:
            ReplicaDown: there is none at all.
        """
        known = self.all()
        with self._guard:
            now = time.monotonic()
            # Drawn, so that several endpoints do not all take the first.
            order = random.sample(known, len(known))
            return min(order, key=lambda it: (tried.count(it.url), self._rest_until.get(it.url, 0.0) > now, self._asked[it.url]))

    @contextmanager
    def asking(self, replica: Replica) -> Iterator[Replica]:
        """Counts a request; a replica that is down rests afterwards."""
        with self._guard:
            self._asked[replica.url] += 1
        try:
            yield replica
        except ReplicaDown:
            with self._guard:
                self._rest_until[replica.url] = time.monotonic() + REST_SECONDS
            raise
        else:
            with self._guard:
                self._rest_until.pop(replica.url, None)
        finally:
            with self._guard:
                self._asked[replica.url] -= 1

    def _urls(self) -> list[str]:
        if self._upstream.replicas == "listed":
            return [url.rstrip("/") for url in self._upstream.urls]
        return [url for name in self._upstream.urls for url in self._resolved(name)]

    def _resolved(self, url: str) -> list[str]:
        parts = urlsplit(url)
        port = parts.port or 80
        return [urlunsplit((parts.scheme, f"{address}:{port}", "", "", "")) for address in self._resolve(parts.hostname or "", port)]

    def _replica(self, url: str) -> Replica:
        return next((known for known in self._known if known.url == url), Replica(url, self._http, self._key))
