"""JSONL files of the programs: every mistake named by file and line, and no file half written."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fine_tune_pipeline.programs.requests import Contract

SHOWN = 10
"""Mistakes of a file that are told; a file of the wrong kind would have one per line."""


class BadRows(ValueError):
    """A JSONL file does not hold the rows that a program needs."""


def read_rows(path: str | Path, *, text_fields: tuple[str, ...], unique: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The rows of a JSONL file, in order; other fields are kept as they are.

    Args:
        text_fields: must be there, as text.
        unique: fields that together name a row.

    Raises:
        BadRows: with all mistakes (the first ten), or because the file is missing or empty.
    """
    if not Path(path).is_file():
        raise BadRows(f"{path}: no such file; want JSONL rows with {', '.join(text_fields)}")
    rows: list[dict[str, Any]] = []
    mistakes: list[str] = []
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        row, wrong = _row(line, text_fields=text_fields)
        name = tuple(str(row.get(field)) for field in unique)
        if not wrong and unique and name in seen:
            wrong = f"{' and '.join(unique)} {' / '.join(name)} is also in line {seen[name]}, want each once"
        seen.setdefault(name, number)
        rows.append(row)
        mistakes += [f"{path}:{number}: {wrong}"] if wrong else []
    if mistakes:
        more = f"\n… and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
        raise BadRows("\n".join(mistakes[:SHOWN]) + more)
    if not rows:
        raise BadRows(f"{path}: is empty; want JSONL rows with {', '.join(text_fields)}")
    return rows


def _row(line: str, *, text_fields: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """The row and what is wrong with it."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return {}, f"no JSON ({error.msg} at column {error.colno}): {line[:60]!r}"
    if not isinstance(row, dict):
        return {}, f"want an object with {', '.join(text_fields)}, got {line[:60]!r}"
    for field in text_fields:
        if not isinstance(row.get(field), str):
            got = f"{row[field]!r}"[:60] if field in row else f"only {', '.join(map(str, row)) or 'nothing'}"
            return row, f"want {field} as text, got {got}"
    return row, ""


def write_rows(path: str | Path, rows: Iterable[Contract | Mapping[str, Any]]) -> None:
    """Write atomically: the file appears when it is whole."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write((row.model_dump_json() if isinstance(row, Contract) else json.dumps(row, ensure_ascii=False)) + "\n")
    os.replace(partial, path)
