"""What programs are asked and answer, and what they write down: documents that are whole or not there. Nothing here imports torch."""

import os
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict


class Contract(BaseModel):
    """A frozen, strict JSON document."""

    # A loss may be no number, and JSON has none that says so.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))

    def write(self, path: str | Path) -> None:
        """Write atomically: a reader sees the old file or the new one, never half of it."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.model_dump_json(indent=2), encoding="utf-8")
        os.replace(partial, path)
