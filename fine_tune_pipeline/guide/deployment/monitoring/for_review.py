"""Which requests people should look at: those of windows that call for a retraining that are unlike all that the model was made for."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.dataset.sources.production import FAR

if TYPE_CHECKING:
    import numpy as np

MOST = 2000
"""Requests that a report remembers, the newest; what people said of one holds only as long as it is among them."""


def unlike(rows: Sequence[dict[str, Any]], similarity: "np.ndarray", *, threshold: float) -> list[str]:
    """Ids of the rows that are less like training texts than the threshold, the least alike first.

    Args:
        similarity: of each row, float32 [rows].
    """
    order = sorted(range(len(rows)), key=lambda place: float(similarity[place]))
    return [rows[place]["id"] for place in order if similarity[place] < threshold]


def keep_for_review(new: Iterable[str], *, before: Artifact | None, folder: Path) -> int:
    """Write the requests of the report before and the new ones into `far.jsonl`; how many there are. None: no file."""
    earlier = [] if before is None or FAR not in before.manifest.files else [row["id"] for row in read_rows(before.file(FAR))]
    found = list(dict.fromkeys([*earlier, *new]))[-MOST:]
    if found:
        write_rows(folder / FAR, ({"id": id_} for id_ in found))
    return len(found)
