"""Where a training is: what a checkpoint holds beside weights, optimizer and random generators."""

import hashlib
from pathlib import Path

from fine_tune_pipeline.programs.requests import Contract, Request

FILE = "progress.json"


class Seen(Contract):
    """Counted over all steps so far, whichever process made them."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    tokens: int = 0
    labelled: int = 0
    places: int = 0
    passes: int = 0
    passes_rows: int = 0
    most_tokens: int = 0
    most_labelled: int = 0
    validation_losses: tuple[tuple[int, float], ...] = ()
    validation_figures: tuple[tuple[int, dict[str, float]], ...] = ()
    scores: tuple[tuple[int, float], ...] = ()


class Progress(Contract):
    """After `step`. What follows from it is what would have followed without a break."""

    request_sha256: str
    learning: str = ""
    step: int = 0
    seen: Seen = Seen()
    micro_batch: int | None = None
    halvings: int | None = None
    rate_scale: float = 1.0
    losses: tuple[float, ...] = ()
    in_a_row: int = 0
    skipped: tuple[tuple[int, str], ...] = ()
    remedies: tuple[str, ...] = ()
    continued_from: tuple[int, ...] = ()
    mlflow_run_id: str | None = None

    @classmethod
    def of(cls, checkpoint: Path) -> "Progress":
        return cls.read(checkpoint / FILE)


def request_sha256(request: Request) -> str:
    """The same for every try of the same work."""
    return hashlib.sha256(request.identity().encode("utf-8")).hexdigest()
