"""How often each key may ask: a token bucket per key, full at first, filled again at its rate."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fine_tune_pipeline.programs.serving.api_keys import ApiKey


@dataclass
class _Bucket:
    """`tokens` as of the moment `seen`, of at most `size`."""

    size: int
    tokens: float
    seen: float


class RateLimits:
    """The buckets of one server; they begin full when it starts."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: seconds that only grow.
        """
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._guard = threading.Lock()

    def wait_seconds(self, key: ApiKey) -> int:
        """Take one token: 0 if there was one, else the whole seconds until there will be."""
        if key.per_minute is None:
            return 0
        with self._guard:
            bucket = self._filled(key, key.per_minute)
            if bucket.tokens >= 1:
                bucket.tokens -= 1
                return 0
            return math.ceil((1 - bucket.tokens) * 60 / key.per_minute)

    def _filled(self, key: ApiKey, size: int) -> _Bucket:
        now = self._clock()
        # A key that was taken back and given out anew under the same name begins anew.
        bucket = self._buckets.get(key.salt)
        if bucket is None or bucket.size != size:
            bucket = self._buckets[key.salt] = _Bucket(size=size, tokens=float(size), seen=now)
        bucket.tokens = min(size, bucket.tokens + (now - bucket.seen) * size / 60)
        bucket.seen = now
        return bucket
