"""Examples and predictions as JSONL: one record a line, in order, written atomically."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Example:
    """One thing to learn: what the model is given and the right answer.

    `id` is stable over runs (content of the source row, or its own id); `source` names where it came from;
    `held_out` marks rows of the sources kept apart for the test; `metadata` holds columns for slices,
    and marks of the steps (such as `cluster`).
    """

    id: str
    prompt: str
    completion: str
    source: str = ""
    held_out: bool = False
    metadata: dict[str, str] = field(default_factory=dict)


class BrokenLine(Exception):
    """A line of a JSONL file is not a JSON object."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSONL file.

    Raises:
        BrokenLine: names file, line and what was seen.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BrokenLine(f"{path}:{number}: not JSON ({error.msg} at column {error.colno}); want one object a line") from error
        if not isinstance(row, dict):
            raise BrokenLine(f"{path}:{number}: got {type(row).__name__}, want an object")
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as JSONL; a reader sees all of them or the old file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, path)


def read_examples(path: Path) -> list[Example]:
    """Examples of a JSONL file that a step wrote."""
    return [Example(**row) for row in read_rows(path)]


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as JSONL rows of id, prompt, completion, source, held_out, metadata."""
    write_rows(path, (asdict(example) for example in examples))
