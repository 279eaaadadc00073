"""What is shipped to measure a tuned model on: texts and requests that were written for this project, the same for every use case."""

from itertools import groupby
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import read_rows

DATA = Path(__file__).parent / "data"

TO_REFUSE, LOOK_ALIKE = "to_refuse", "look_alike"


def general_texts(count: int) -> list[dict[str, Any]]:
    """Rows of id, kind and text; fewer than all are spread over the kinds."""
    kinds = [list(rows) for _, rows in groupby(read_rows(DATA / "general.jsonl"), key=lambda row: row["kind"])]
    in_turn = [rows[turn] for turn in range(max(map(len, kinds))) for rows in kinds if turn < len(rows)]
    return in_turn[:count]


def requests() -> list[dict[str, Any]]:
    """Rows of id, kind (to_refuse or look_alike) and prompt."""
    return read_rows(DATA / "requests.jsonl")
