"""What the untrained model makes of every answer: computed once, before anything is learned, so that it need not stay in memory.

They are kept in a file: another try of the same training must compare with the same numbers, bit by bit.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fine_tune_pipeline.programs.requests import Contract
from fine_tune_pipeline.programs.training.batches import Row
from fine_tune_pipeline.programs.training.preference_rows import Judged, Pair
from fine_tune_pipeline.programs.training.sequence_logps import answers_of
from fine_tune_pipeline.programs.training.step_loss import Batched

FILE = "references.json"


class References(Contract):
    """Log-probability of each answer, in nats, by what the sequence is."""

    request_sha256: str
    logps: dict[str, float]

    def of(self, rows: Sequence[Row], like: Tensor) -> Tensor:
        """Of these sequences, [S], where `like` is."""
        return torch.tensor([self.logps[_key(row)] for row in rows], dtype=torch.float32, device=like.device)


def compared(rows: Iterable[Row]) -> list[Row]:
    """All sequences that a reference is needed for, each once, long ones first."""
    found: dict[str, Row] = {}
    for row in rows:
        parts = (row.preferred, row.rejected) if isinstance(row, Pair) else (row, row.other) if isinstance(row, Judged) else ()
        found |= {_key(part): part for part in parts}
    return sorted(found.values(), key=lambda row: (-len(row.input_ids), _key(row)))


@torch.no_grad()
def computed(model: nn.Module, sequences: Sequence[Row], batched: Batched, *, rows_a_pass: int) -> dict[str, float]:
    """`References.logps` by the model as it is now."""
    logps: dict[str, float] = {}
    for first in range(0, len(sequences), rows_a_pass):
        some = sequences[first : first + rows_a_pass]
        found = answers_of(model, some, batched(some)).logps.tolist()
        logps |= {_key(row): value for row, value in zip(some, found, strict=True)}
    return logps


def kept(path: Path, *, request_sha256: str) -> References | None:
    """Those that an earlier try of the same work has left."""
    found = References.read(path) if path.exists() else None
    return found if found is not None and found.request_sha256 == request_sha256 else None


def _key(row: Row) -> str:
    return hashlib.blake2b(array("q", [row.prompt_tokens, *row.input_ids]).tobytes(), digest_size=12).hexdigest()
