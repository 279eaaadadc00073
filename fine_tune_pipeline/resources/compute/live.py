"""Messages of a running program, shown while it runs: numbers become observations of its asset, at most one per interval."""

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_pipes import PipesDefaultMessageWriter

if TYPE_CHECKING:
    from dagster._core.pipes.context import PipesMessageHandler

INTERVAL_SECONDS = 2.0
"""An observation costs 14 ms of SQLite; every step goes to MLflow anyway."""


POLL_SECONDS = 0.05


class LiveFileReader(dg.PipesMessageReader):
    """Reads messages from a file on shared storage, whole lines of any length, and shows live numbers at once.

    Not Dagster's own reader of files: it takes a line that is only half written for a whole one, and empties the file at its start, where
    a program that an earlier run has left may already have written.
    """

    expected_writer_count = 1

    def __init__(self, context: dg.AssetExecutionContext, path: Path) -> None:
        self._path = path
        self._context = context
        self._last_seconds = 0.0

    @contextmanager
    def read_messages(self, handler: "PipesMessageHandler") -> Iterator[dict[str, Any]]:
        self._path.touch()
        closed = threading.Event()
        thread = threading.Thread(target=self._read, args=(handler, closed), name="messages", daemon=True)
        thread.start()
        try:
            yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(self._path)}
        finally:
            closed.set()
            thread.join()

    def no_messages_debug_text(self) -> str:
        return f"Looked for messages in {self._path}."

    def _read(self, handler: "PipesMessageHandler", closed: threading.Event) -> None:
        try:
            for line in whole_lines(self._path, closed):
                message = json.loads(line)
                if message["method"] == "report_custom_message":
                    self.show(message["params"]["payload"])
                else:
                    handler.handle_message(message)
        except Exception:
            # The run must fail with it, not wait for ever for messages that nobody reads.
            handler.report_pipes_framework_exception("reader of messages", sys.exc_info())
            raise

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


def whole_lines(path: Path, closed: threading.Event) -> Iterator[bytes]:
    """Lines of a growing file as they come; ends when it is closed and all of it was read. A last line without its end was never sent."""
    with path.open("rb") as file:
        pending = b""
        while True:
            last = closed.is_set()
            if text := file.read():
                *lines, pending = (pending + text).split(b"\n")
                yield from lines
            elif last:
                return
            else:
                closed.wait(POLL_SECONDS)
