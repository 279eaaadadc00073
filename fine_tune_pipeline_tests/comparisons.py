"""Compared answers for tests: the right intent is preferred to another one."""

import json
from pathlib import Path

from fine_tune_pipeline_tests.small_training import MESSAGES, ROWS

INTENTS = sorted({answer for _, answer in MESSAGES})


def write_pairs(path: Path, *, single: int = 0, mark: str = "") -> Path:
    """The rows of a small training, each with another answer that people liked less; the last `single` of them without.

    Args:
        mark: stands before every answer.
    """
    rows = [{"id": id, "prompt": prompt, "completion": mark + answer, "rejected": mark + other(answer)} for id, prompt, answer in ROWS]
    for row in rows[len(rows) - single :]:
        del row["rejected"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def other(answer: str) -> str:
    """A wrong intent."""
    return INTENTS[(INTENTS.index(answer) + 1) % len(INTENTS)]
