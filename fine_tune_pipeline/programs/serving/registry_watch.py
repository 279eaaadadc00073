"""The thread that asks the model registry every few seconds who is champion, and lets the version table follow.

A registry that is down, slow or wrong changes nothing: the last good table stays, and `stale_seconds` grows.
"""

import threading
import time

from fine_tune_pipeline.programs.serving.registry_aliases import Ask, RegistrySilent
from fine_tune_pipeline.programs.serving.versions import Versions

STALE_SECONDS = 60.0
"""A registry that was silent for so long, beyond the usual pause, is told as a problem; a restart of its server is not."""


class RegistryWatch:
    """Follows the aliases of one registered model."""

    def __init__(self, ask: Ask, versions: Versions, *, every_seconds: float) -> None:
        self._ask = ask
        self._versions = versions
        self._every_seconds = every_seconds
        self._answered_at = time.monotonic()
        self._silent: str | None = None
        self._otherwise: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)

    def start(self) -> None:
        """Ask from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; a question that is under way is not waited for."""
        self._over.set()

    @property
    def stale_seconds(self) -> float:
        """Since the registry last answered, or since the start if it never has."""
        return round(time.monotonic() - self._answered_at, 3)

    @property
    def problem(self) -> str | None:
        """What is not as it should be; None if all is."""
        if self.stale_seconds > STALE_SECONDS + self._every_seconds:
            # Also of one that takes the question and goes on answering for ever.
            why = self._silent or "it has not finished answering"
            return f"model registry: no answer for {self.stale_seconds:.0f} s, the last known aliases are served ({why})"
        return self._otherwise

    def look(self) -> None:
        """Ask once, and follow."""
        asked_at = time.monotonic()
        try:
            aliases = self._ask()
        except RegistrySilent as error:
            self._silent = str(error)
            return
        self._answered_at, self._silent = time.monotonic(), None
        try:
            self._otherwise = self._versions.follow(aliases, asked_at=asked_at)
        except OSError as error:
            # The disk is full: nothing has changed, and the next look tries again.
            self._otherwise = f"the aliases of the model registry cannot be kept, so they stay as they were: {error}"

    def _run(self) -> None:
        while not self._over.is_set():
            self.look()
            self._over.wait(self._every_seconds)
