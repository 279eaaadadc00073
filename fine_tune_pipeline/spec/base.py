"""What every part of a use case has in common: strict, frozen, and documented fields."""

from typing import Any

from pydantic import BaseModel, ConfigDict


def unset(value: Any) -> bool:
    """For `exclude_if` of a field that came later: left out of what is written down while nobody has set it, so that what was made before
    the field was there keeps its fingerprint."""
    return not value or value in ("frozen", "all")


class Section(BaseModel):
    """A part of a use case: unknown fields are refused, values keep the type they were written in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
