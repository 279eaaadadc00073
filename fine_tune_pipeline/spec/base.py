"""What every part of a use case has in common: strict, frozen, and documented fields."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a use case: unknown fields are refused, values keep the type they were written in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
