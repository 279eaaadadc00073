"""What a question to a program and its answer have in common: frozen, strict JSON that names the files it reads and writes."""

import json
import os
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

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


class Access(Enum):
    """What a program does with a file or folder that its request names: a place that is not this machine has to bring them there."""

    READS = "reads"
    WRITES = "writes"


Read = Annotated[str, Access.READS]
Written = Annotated[str, Access.WRITES]


class Request(Contract):
    """One run of one program; `output` is an existing folder of its own.

    `resumable`: a program that was broken off goes on from what lies in `output`, and one that has finished is not run again.
    `parallel`: it can run in several processes that work on one task.
    `environment`: variables that its libraries read when they are loaded; one that is set already stays as it is.
    """

    module: ClassVar[str]
    resumable: ClassVar[bool] = False
    parallel: ClassVar[bool] = False
    environment: ClassVar[Mapping[str, str]] = {}
    output: Written

    def identity(self) -> str:
        """What is asked, without where its run is tracked: canonical JSON, the same for each try of the same work."""
        return identity(self.model_dump(mode="json"))

    def variables(self) -> tuple[str, ...]:
        """Names of the environment variables whose secrets the program needs: a place that does not inherit ours hands them on."""
        return ()

    def paths(self, access: Access) -> list[Path]:
        """Every path of the request, and of the documents inside it, that the program reads or writes, in their order."""
        return [Path(value) for how, value in _paths(self) if how == access]


def identity(request: dict[str, Any]) -> str:
    """As `Request.identity`, of a request that was read as plain JSON."""
    return json.dumps({name: value for name, value in request.items() if name != "tracking"}, sort_keys=True)


def _paths(document: Contract) -> Iterator[tuple[Access, str]]:
    for name, field in type(document).model_fields.items():
        value = getattr(document, name)
        how = next((mark for mark in field.metadata if isinstance(mark, Access)), None)
        if how is not None and value is not None:
            yield from ((how, one) for one in ([value] if isinstance(value, str) else value))
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Contract):
                yield from _paths(part)
