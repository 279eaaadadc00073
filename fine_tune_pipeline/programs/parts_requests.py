"""What `programs.parts` is asked and what it answers."""

from typing import Annotated, Any, Literal

from pydantic import Field

from fine_tune_pipeline.artifacts.parts import PART_ROWS
from fine_tune_pipeline.programs.requests import Access, Contract, Read, Request, Written


class PartsRequest(Request):
    """Step 3: one function of the package over all parts of `source` (JSONL of examples); what comes of each lies in `folder`."""

    module = "fine_tune_pipeline.programs.parts"
    function: str = Field(description="`module:name` of what makes the work from the settings.")
    settings: dict[str, Any]
    source: Read
    folder: Written
    also: Annotated[tuple[str, ...], Access.READS] = Field(default=(), description="Folders and files that the settings name.")
    engine: Literal["local", "ray"] = "local"
    workers: int = 1
    address: str | None = None
    part_rows: int = Field(default=PART_ROWS, ge=1)


class PartsResult(Contract):
    """How many parts there are, and how many of them an earlier run had done."""

    parts: int
    resumed: int
    seconds: float
