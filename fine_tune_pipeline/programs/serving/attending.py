"""What is wished of an endpoint that runs in another container, and what became of it: two files of its state folder, which both share.

wanted.json     the last wish             wanted.lock     held by whoever waits for its wish
attended.json   what became of it         attendant.lock  held while somebody attends
"""

from typing import Literal

from pydantic import Field

from fine_tune_pipeline.programs.contracts import Contract
from fine_tune_pipeline.programs.requests import ServeRequest

WANTED_FILE = "wanted.json"
WANTED_LOCK = "wanted.lock"
ATTENDED_FILE = "attended.json"
ATTENDANT_LOCK = "attendant.lock"


class Wanted(Contract):
    """How the endpoint is to run, or that it is to stop."""

    id: str = Field(description="Of this wish: its answer names it.")
    runs: bool
    request: ServeRequest
    base_sha256: str = Field(description="Of the weights that `request.model` holds.")


class Attended(Contract):
    """What became of a wish; `problem` says why when it failed."""

    id: str
    action: Literal["started", "adopted", "restarted", "stopped", "failed"]
    problem: str = ""
