"""Messages of a running program, shown while it runs: numbers become observations of its asset, at most one per interval."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.pipes.context import PipesMessageHandler

INTERVAL_SECONDS = 2.0
"""An observation costs 14 ms of SQLite; every step goes to MLflow anyway."""


class LiveFileReader(dg.PipesFileMessageReader):
    """Reads messages from a file on shared storage, so that long ones are not cut, and shows custom ones at once."""

    expected_writer_count = 1

    def __init__(self, context: dg.AssetExecutionContext, path: str) -> None:
        super().__init__(path)
        self._context = context
        self._last_seconds = 0.0

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[Any]:
        with super().read_messages(cast("PipesMessageHandler", _Tap(handler, self))) as parameters:
            yield parameters

    def show(self, payload: Mapping[str, Any]) -> None:
        """Log one observation, unless the last one is too fresh; the end of a stretch is always shown."""
        now = time.monotonic()
        last = payload["done"] == payload["total"]
        if not payload["numbers"] or (now - self._last_seconds < INTERVAL_SECONDS and not last):
            return
        self._last_seconds = now
        # To be read by people: the exact numbers go to MLflow.
        numbers = {f"live/{name}": float(f"{value:.4g}") for name, value in payload["numbers"].items()}
        metadata = {"live/step": payload["done"], "live/steps": payload["total"], **numbers}
        self._context.log_event(dg.AssetObservation(self._context.asset_key, metadata=metadata))


class _Tap:
    """Passes messages on, and shows custom ones on the way."""

    def __init__(self, handler: Any, reader: LiveFileReader) -> None:
        self._handler = handler
        self._reader = reader

    def handle_message(self, message: Mapping[str, Any]) -> None:
        if message["method"] == "report_custom_message":
            self._reader.show(message["params"]["payload"])
            return
        self._handler.handle_message(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)
