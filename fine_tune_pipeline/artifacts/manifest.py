"""The manifest: what a finished artifact is, what it showed, and which checks it passed. Its presence says that the rest is whole."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fine_tune_pipeline.artifacts.fingerprint import Payload

Shown = Any
"""A value for people: bool, int, float, str, a list of rows (dicts) for a table, or `Markdown`, `Link`."""


class Frozen(BaseModel):
    """Base of the manifest's parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(Frozen):
    """The verdict of one check. A blocking one that fails stops everything downstream."""

    name: str
    passed: bool
    blocking: bool = True
    description: str = Field(description="What was seen, what is wanted, and, when failed, what to do.")
    metadata: dict[str, Any] = {}


class Built(Frozen):
    """What a step function gives back beside the files it wrote."""

    metadata: dict[str, Any] = Field(default={}, description="Shown in the UI; numbers become plots, lists of dicts become tables.")
    markdown: dict[str, str] = Field(default={}, description="Longer texts shown as Markdown.")
    checks: list[Check] = []


class Manifest(Frozen):
    """Written last, as `manifest.json`."""

    format: Literal[1] = 1
    use_case: str
    asset: str
    fingerprint: str
    payload: Payload
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    seconds: float
    files: dict[str, str] = Field(description="Relative path -> SHA-256 of every file beside the manifest.")
    built: Built

    @property
    def failed(self) -> list[Check]:
        """Blocking checks that did not pass."""
        return [check for check in self.built.checks if check.blocking and not check.passed]
